"""`secret:vault:mount/path#key`: Vault's HTTP API, the key/value secrets engine, version 2.

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version. Address and token come from the
environment, as for Vault's own programs: VAULT_ADDR, VAULT_TOKEN, VAULT_NAMESPACE, VAULT_CACERT.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gapless.core.errors import ConfigError

LIMIT_S = 5.0
"""For one answer."""
LARGEST = 1_048_576
"""Bytes: a secret is no file store; Vault's own limit for one is of this size."""

_MEANINGS = {
    403: ("VAULT_TOKEN may not read it", "Give the token a policy with `read` on this path."),
    404: ("there is nothing there, or its newest version was deleted", "Look by `vault kv get`."),
    429: ("this node is a standby", "Give VAULT_ADDR the address of the active node or of the cluster."),
    503: ("it is sealed or under maintenance", "Unseal it; what runs goes on with the secrets that it has."),
}


class HttpVault:
    """`secret_references.Vault`. Makes a connection for each reading: there is one a minute."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    async def read(self, path: str, key: str) -> str:
        """Raises ConfigError with what Vault says, and what to do; never with the secret."""
        status, body = await self._get(data_path(path))
        if status != 200:
            meaning, remedy = _MEANINGS.get(status, ("", "Look into Vault's log."))
            raise ConfigError(f"Vault answers {status} for {path}: {meaning or _errors(body)}", remedy)
        value = _value(body, path)
        if not isinstance(value.get(key), str):
            known = ", ".join(sorted(value)) or "none"
            raise ConfigError(f"{path} in Vault has no text under {key!r}; its keys are: {known}", "Name one of these.")
        return str(value[key])

    async def _get(self, target: str) -> tuple[int, Any]:
        import httpcore

        address = self._env.get("VAULT_ADDR", "").rstrip("/")
        if not address or "VAULT_TOKEN" not in self._env:
            raise ConfigError("VAULT_ADDR and VAULT_TOKEN are not both set", "Set them where the instance is started.")
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), LIMIT_S)
        try:
            async with (
                httpcore.AsyncConnectionPool(ssl_context=self._tls(address)) as pool,
                pool.stream(
                    "GET", f"{address}/v1/{target}", headers=self._headers(), extensions={"timeout": timeout}
                ) as response,
            ):
                return response.status, _json(await _body(response))
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise ConfigError(
                f"Vault at {address} does not answer: {error or type(error).__name__}", "Look whether it runs."
            ) from error
        except httpcore.UnsupportedProtocol as error:
            raise ConfigError(f"VAULT_ADDR is {address!r}", "Write for instance https://vault:8200.") from error

    def _headers(self) -> list[tuple[bytes | str, bytes | str]]:
        namespace = self._env.get("VAULT_NAMESPACE", "")
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("X-Vault-Token", self._env["VAULT_TOKEN"]),
            ("X-Vault-Request", "true"),
        ]
        return [*headers, ("X-Vault-Namespace", namespace)] if namespace else headers

    def _tls(self, address: str) -> ssl.SSLContext | None:
        if not address.startswith("https:"):
            return None
        try:
            return ssl.create_default_context(cafile=self._env.get("VAULT_CACERT") or None)
        except OSError as error:
            raise ConfigError(f"VAULT_CACERT cannot be read: {error.strerror}", "Name a PEM file.") from error


def data_path(path: str) -> str:
    """`secret/orders` as `secret/data/orders`: the first part is the mount. A mount whose name has several parts is
    written with its `data`: `team/kv/data/orders`."""
    mount, _, rest = path.strip("/").partition("/")
    whole = path.strip("/") if "data" in path.split("/")[1:-1] else f"{mount}/data/{rest}"
    return quote(whole)


async def _body(response: Any) -> bytes:
    body = b""
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > LARGEST:
            raise ConfigError(f"Vault's answer is longer than {LARGEST} bytes", "Keep less in one secret.")
    return body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return {}


def _errors(body: Any) -> str:
    told = body.get("errors") if isinstance(body, dict) else None
    return "; ".join(map(str, told)) if told else "no reason given"


def _value(body: Any, path: str) -> dict[str, Any]:
    """`{"data": {"data": {…}, "metadata": …}}`."""
    outer = body.get("data") if isinstance(body, dict) else None
    value = outer.get("data") if isinstance(outer, dict) else None
    if not isinstance(value, dict):
        raise ConfigError(f"Vault's answer for {path} is not that of a KV v2 engine", "Name a path of such a mount.")
    return value
