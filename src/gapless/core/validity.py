"""From when until when a certificate is valid, read from its DER (RFC 5280 §4.1): `ssl` tells it of others' only. Pure.

Certificate ::= SEQUENCE { tbs SEQUENCE { [0] version?, serialNumber, signature, issuer, validity, … } … }
Validity ::= SEQUENCE { notBefore Time, notAfter Time }
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import NamedTuple

SEQUENCE, UTC_TIME, GENERALIZED_TIME, VERSION = 0x30, 0x17, 0x18, 0xA0
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class Validity(NamedTuple):
    """Seconds since the epoch."""

    begins_at: float
    ends_at: float


class Part(NamedTuple):
    tag: int
    content: bytes
    rest: bytes
    """What follows it."""


def validity(pem: str) -> Validity:
    """Of the first certificate in the text of a PEM file, which is the server's own. Raises ValueError."""
    begin, end = pem.find(_BEGIN), pem.find(_END)
    if begin < 0 or end < begin:
        raise ValueError("no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)])
    tbs = part(part(der, SEQUENCE).content, SEQUENCE).content
    first = part(tbs)
    after = first.rest if first.tag == VERSION else tbs
    for _ in ("serialNumber", "signature", "issuer"):
        after = part(after).rest
    begins = part(part(after, SEQUENCE).content)
    return Validity(moment(begins), moment(part(begins.rest)))


def part(der: bytes, tag: int = 0) -> Part:
    """The first value in it; `tag`: of which kind it has to be. Raises ValueError."""
    if len(der) < 2 or (tag and der[0] != tag):
        raise ValueError("not a certificate in DER")
    size, at = der[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(der[2:at], "big")
    if len(der) < at + size:
        raise ValueError("a certificate that is cut off")
    return Part(der[0], der[at : at + size], der[at + size :])


def moment(time: Part) -> float:
    """Of a UTCTime or GeneralizedTime, in the forms that RFC 5280 §4.1.2.5 allows. Raises ValueError."""
    text = time.content.decode("ascii")
    if time.tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif time.tag != GENERALIZED_TIME:
        raise ValueError("a certificate without a time where one must be")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
