"""The signature of a webhook: whoever knows the secret can tell that a notice is ours, and new. Pure.

    X-Gapless-Signature: t=1700000000,v1=5257a869e7…

`v1` is the HMAC-SHA256 (RFC 2104), in hexadecimal digits, of `t`, a full stop and the body, by the secret. The receiver
makes it anew, compares in constant time, and refuses what is older than some minutes: a repeated message of a listener.
"""

from __future__ import annotations

import hashlib
import hmac

HEADER = "X-Gapless-Signature"
OLDEST_S = 300.0


def signature(secret: str, body: bytes, at: float) -> str:
    """The header's value."""
    seconds = int(at)
    return f"t={seconds},v1={_mac(secret, body, seconds)}"


def verified(secret: str, body: bytes, header: str, now_at: float, oldest_s: float = OLDEST_S) -> bool:
    """Whether a receiver may believe it."""
    parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    said, seconds = parts.get("v1", ""), parts.get("t", "")
    if not (seconds.isascii() and seconds.isdecimal()) or abs(now_at - int(seconds)) > oldest_s:
        return False
    return hmac.compare_digest(_mac(secret, body, int(seconds)).encode(), said.encode(errors="replace"))


def _mac(secret: str, body: bytes, seconds: int) -> str:
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
