"""Certificates of a real authority of our own, as files that can change."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import trustme


class Authority:
    """Issues pairs into `folder`: `cert.pem` (the chain) and `key.pem`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.issue()

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def issue(self, *, key: bool = True) -> None:
        """A new pair in the old one's place, each file replaced in one step; without `key` they do not match."""
        pair = self.ca.issue_cert("localhost", "127.0.0.1", "::1")
        _replace(self.cert, b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        if key:
            _replace(self.key, pair.private_key_pem.bytes())

    def spoil(self) -> None:
        _replace(self.cert, b"-----BEGIN CERTIFICATE-----\nnonsense\n")

    def client(self, *alpn: str, name: str = "") -> ssl.SSLContext:
        """What a client that trusts us uses; with `name` it shows a certificate of its own."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if name:
            self.ca.issue_cert(name, common_name=name).configure_cert(context)
        return context


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)
