"""Certificates that change: when they are read, and what is refused."""

from __future__ import annotations

import logging
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.core.validity import validity
from gapless.server.settings import tls_paths
from gapless.server.tls import certificates as server_tls
from gapless.server.tls.certificates import Certificates, Tls


@pytest.fixture
def files(tmp_path: Path) -> Tls:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("1")
    return Tls(str(tmp_path / "cert"), str(tmp_path / "key"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read of the two files, whenever they were."""
    read: list[str] = []

    def make_context(tls: Tls) -> ssl.SSLContext:
        cert, key = Path(tls.cert).read_text(), Path(tls.key).read_text()
        read.append(cert + key)
        if cert != key:
            raise ConfigError("they do not match")
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    monkeypatch.setattr(server_tls, "make_context", make_context)
    return read


def test_a_pair_is_read_when_both_have_settled(files: Tls, made: list[str]) -> None:
    certificates = Certificates(files, time.time)
    first = certificates.context
    certificates.look()
    Path(files.cert).write_text("22")
    certificates.look()
    Path(files.key).write_text("22")
    certificates.look()
    assert made == ["11"], "it may not be complete"
    certificates.look()
    assert made == ["11", "2222"]
    assert certificates.context is not first
    certificates.look()
    assert len(made) == 2


def test_a_pair_that_does_not_match_is_refused_once(
    files: Tls, made: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(files, time.time)
    first = certificates.context
    Path(files.cert).write_text("22")
    for _ in range(5):
        certificates.look()
    assert certificates.context is first
    assert [record.message.count("refused") for record in caplog.records] == [1]
    Path(files.key).write_text("22")
    certificates.look()
    certificates.look()
    assert certificates.context is not first


def test_a_replaced_link_is_a_change(files: Tls, made: list[str], tmp_path: Path) -> None:
    """As Kubernetes renews secrets."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    for folder, text in (("old", "1"), ("new", "2")):
        for name in ("cert", "key"):
            (tmp_path / folder / name).write_text(text)
    link = tmp_path / "data"
    link.symlink_to("old")
    certificates = Certificates(Tls(str(link / "cert"), str(link / "key")), time.time)
    link.unlink()
    link.symlink_to("new")
    certificates.look()
    certificates.look()
    assert made == ["11", "22"]


def test_a_key_may_be_in_the_file_of_the_certificate(files: Tls) -> None:
    assert tls_paths(files.cert, "", "", "1.3") == {
        "tls_cert": files.cert,
        "tls_key": files.cert,
        "tls_client_ca": "",
        "tls_min": "1.3",
    }


@pytest.mark.parametrize("given", [("", "key", "", "1.2"), ("", "", "ca", "1.2"), ("nowhere", "", "", "1.2")])
def test_options_that_make_no_sense(given: tuple[str, str, str, str]) -> None:
    with pytest.raises(ConfigError):
        tls_paths(*given)


AUTHORITY = trustme.CA()


def issued(begins: datetime | None = None, ends: datetime | None = None) -> str:
    """A pair in one file, the key first."""
    pair = AUTHORITY.issue_cert("localhost", not_before=begins, not_after=ends)
    return pair.private_key_and_cert_chain_pem.bytes().decode()


@pytest.mark.parametrize("ends", [datetime(2049, 12, 31, 23, 59, tzinfo=UTC), datetime(2150, 1, 1, tzinfo=UTC)])
def test_both_forms_of_time_are_read(ends: datetime) -> None:
    begins = datetime(1999, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert validity(issued(begins, ends)) == (begins.timestamp(), ends.timestamp())


def test_it_agrees_with_another_reader() -> None:
    pem = issued()
    other = x509.load_pem_x509_certificate(pem[pem.index("-----BEGIN CERTIFICATE") :].encode())
    assert validity(pem) == (other.not_valid_before_utc.timestamp(), other.not_valid_after_utc.timestamp())


@given(st.binary(max_size=200), st.integers(0, 400))
def test_what_is_no_certificate_is_a_value_error(junk: bytes, cut: int) -> None:
    for der in (junk, CERTIFICATE[:cut], CERTIFICATE[:cut] + junk):
        try:
            validity(ssl.DER_cert_to_PEM_cert(der))
        except ValueError:
            continue


CERTIFICATE = ssl.PEM_cert_to_DER_cert(AUTHORITY.cert_pem.bytes().decode())


def test_a_new_certificate_that_is_not_valid_now_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime.now(UTC)
    both = tmp_path / "both.pem"
    both.write_text(issued())
    certificates = Certificates(Tls(str(both), str(both)), time.time)
    first = certificates.context
    for begins, ends in ((None, now - timedelta(days=1)), (now + timedelta(days=1), None)):
        both.write_text(issued(begins, ends))
        certificates.look()
        certificates.look()
        assert certificates.context is first
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["expired on" in told[0], "not valid before" in told[1]] == [True, True]
    both.write_text(issued())
    certificates.look()
    certificates.look()
    assert certificates.context is not first
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2


def test_a_server_begins_with_an_expired_certificate_and_complains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = tmp_path / "both.pem"
    both.write_text(issued(ends=datetime.now(UTC) - timedelta(hours=1)))
    Certificates(Tls(str(both), str(both)), time.time)
    assert "expired on" in caplog.text
