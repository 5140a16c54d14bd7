"""What happened when, and which of the customers' requests it touched. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gapless.load import Record

STEADY = "steady"
"""The name of all the time in which nothing was being done to the system."""
BEFORE_S = 2.0
"""So long before an event began its latencies are compared with."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the system; times in seconds since the epoch."""

    name: str
    began_at: float
    ended_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the good answers, in seconds."""

    requests: int
    p50_s: float
    p99_s: float


def attribute(record: Record, events: Sequence[Event]) -> str:
    """The event that a request met: the latest one that was under way between its due time and its end."""
    ended_at = record.due_at + record.latency_s
    met = [event for event in events if record.due_at <= event.ended_at and ended_at >= event.began_at]
    return max(met, key=lambda event: event.began_at).name if met else STEADY


def latency(records: Iterable[Record]) -> Latency:
    """Exact, by sorting."""
    sorted_s = sorted(record.latency_s for record in records if not record.cause)
    return Latency(len(sorted_s), quantile(sorted_s, 0.5), quantile(sorted_s, 0.99))


def quantile(sorted_s: Sequence[float], share: float) -> float:
    """The least value that `share` of them do not exceed; 0 when there are none."""
    return sorted_s[max(1, math.ceil(share * len(sorted_s))) - 1] if sorted_s else 0.0


def before(event: Event, records: Iterable[Record]) -> list[Record]:
    """The requests that were due in the moments before an event."""
    return [record for record in records if event.began_at - BEFORE_S <= record.due_at < event.began_at]


def during(event: Event, records: Iterable[Record], events: Sequence[Event]) -> list[Record]:
    """The requests that met an event."""
    return [record for record in records if attribute(record, events) == event.name]
