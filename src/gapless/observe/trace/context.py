"""The trace that the present work belongs to, as it travels in `traceparent`.

Every request has one, also when nothing of it is recorded: log lines of several services find together by it.

Source: W3C Trace Context, www.w3.org/TR/trace-context (level 1).
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import NamedTuple

HEADER, RESPONSE = b"traceparent", b"traceresponse"
"""Of a request, and of its answer (level 2): only when it is recorded."""
_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
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
    if not found or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace = Trace(found[2].decode(), found[3].decode(), bool(int(found[4], 16) & 1))
    return None if trace.trace_id == _NO_TRACE or trace.span_id == _NO_SPAN else trace


def render(trace: Trace) -> bytes:
    """The value of `traceparent`."""
    return f"00-{trace.trace_id}-{trace.span_id}-{'01' if trace.sampled else '00'}".encode()


class Ids:
    """Numbers for traces and spans, spread evenly and without a system call: splitmix64, from a random `seed` of each
    process. Not secret. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def number(self) -> int:
        """Uniform in 0 … 2**64 - 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((self._state ^ (self._state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def trace_id(self) -> str:
        return f"{self.number():016x}{self.number() or 1:016x}"

    def span_id(self) -> str:
        return f"{self.number() or 1:016x}"
