"""Spans that have ended, and the few of them that a process keeps until somebody takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_KEPT = 2_000
"""Some megabytes at most; older ones make room and are counted."""
LONGEST_TEXT = 1_000
MOST_ATTRIBUTES = 32

CHILD = "gapless.child"
"""Of the gateway's span: the one that it has led to, which names the gateway's caller as its parent, or nobody."""

Value = str | int | float | bool


class Span(NamedTuple):
    """`began_at` seconds since the epoch; `kind` "server", "client" or "internal"; `late`: only kept because it was
    slow or failed, so that what it called is not recorded."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    instance: str
    release: str
    began_at: float
    took_s: float
    failed: bool = False
    late: bool = False
    attributes: Mapping[str, Value] = {}

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return self._asdict()

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> Span:
        """Fields of a later version of Gapless are ignored. Raises TypeError."""
        return cls(**{name: value[name] for name in cls._fields if name in value})


def clipped(attributes: Mapping[str, Any]) -> dict[str, Value]:
    """Of bounded size, whatever an application puts in."""
    found: dict[str, Value] = {}
    for name, value in attributes.items():
        if len(found) == MOST_ATTRIBUTES:
            break
        plain = value if isinstance(value, bool | int | float) else str(value)
        found[str(name)[:LONGEST_TEXT]] = plain[:LONGEST_TEXT] if isinstance(plain, str) else plain
    return found


class Kept:
    """The newest spans of a process. Adding never waits and never grows beyond `most`."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._spans: deque[Span] = deque(maxlen=most)
        self.dropped = 0

    def add(self, span: Span) -> None:
        """Safe from any thread."""
        if len(self._spans) == self._spans.maxlen:
            self.dropped += 1
        self._spans.append(span._replace(name=span.name[:LONGEST_TEXT], attributes=clipped(span.attributes)))

    def take(self, most: int = MOST_KEPT) -> list[Span]:
        """The oldest ones, which are forgotten here."""
        return [self._spans.popleft() for _ in range(min(most, len(self._spans)))]
