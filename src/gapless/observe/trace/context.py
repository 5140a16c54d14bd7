"""The trace that the present work belongs to, as it travels in `traceparent`.

Every request has one, also when nothing of it is recorded: log lines of several services find together by it.

Source: W3C Trace Context, www.w3.org/TR/trace-context (level 1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

HEADER, RESPONSE = b"traceparent", b"traceresponse"
"""Of a request, and of its answer (level 2): only when it is recorded."""
_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_ODD = b"13579bdf"
"""The last digits of flags that say that it is recorded."""
_MASK = (1 << 64) - 1


class Trace(NamedTuple):
    """`span_id` is the span that is under way; calls name it as their parent. Both in lower-case hex, 32 and 16
    digits."""

    trace_id: str
    span_id: str
    sampled: bool
    """It is recorded, here and by whoever is called."""


present: ContextVar[Trace | None] = ContextVar("gapless_trace", default=None)


def parse(header: bytes) -> Trace | None:
    """None for what is not a traceparent: a new trace begins then. Later versions may have more fields."""
    found = _FORM.fullmatch(header)
    if not found:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Trace(trace_id.decode(), span_id.decode(), flags[1] in _ODD)


def render(trace: Trace) -> bytes:
    """The value of `traceparent`."""
    return f"00-{trace.trace_id}-{trace.span_id}-{'01' if trace.sampled else '00'}".encode()


class Ids:
    """Of traces and spans; `bits` are a World's. One of zeros, which nobody takes, has a chance of 2**-64."""

    __slots__ = ("_bits",)

    def __init__(self, bits: Callable[[int], int]) -> None:
        self._bits = bits

    def first(self, below: int) -> Trace:
        """A new trace, which is recorded when its last 64 bits are `below`: the share of 2**64 that is wanted."""
        bits = self._bits(192)
        text = bits.to_bytes(24, "big").hex()
        return Trace(text[16:], text[:16], bits & _MASK < below)

    def trace_id(self) -> str:
        return f"{self._bits(128):032x}"

    def span_id(self) -> str:
        return f"{self._bits(64):016x}"
