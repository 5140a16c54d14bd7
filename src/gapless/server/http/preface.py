"""What tells HTTP/2 from HTTP/1.1 on one port (RFC 9113 §3.4), apart from the rest, which most workers do without."""

from __future__ import annotations

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def is_preface(data: bytes) -> bool:
    """Whether a connection that begins so speaks HTTP/2, as far as one can tell by now."""
    return data.startswith(PREFACE) if len(data) >= len(PREFACE) else PREFACE.startswith(data)
