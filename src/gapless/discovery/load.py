"""What one caller has seen of one instance, as a pure value.

Latency is a peak EWMA (Finagle's): it jumps up to each new peak at once and decays with `TAU_S`, so that a slow
instance is noticed by its first slow answer. A fast failure looks like a fast answer, so an error weighs like
`PENALTY_S` of latency, by its share of recent time. An instance that refuses or resets, or fails `FAILURES_TO_EJECT`
times in a row, is ejected: left out until a single probing request is due, each time twice as late.
"""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec
from msgspec.structs import replace

TAU_S = 10.0
"""Memory of latency and errors: long beside one request, short beside a deploy."""
PENALTY_S = 1.0
"""Latency that an error counts for: slower than any healthy answer."""
SLOW_START_S = 10.0
SLOW_START_LEAST = 0.1
"""A new instance (cold caches, unfilled pools) starts with a tenth of its share and has all of it after ten seconds."""
FAILURES_TO_EJECT = 3
"""One error may be the request's own fault; three in a row are not."""
PROBATION_S = 0.25
PROBATION_MOST_S = TAU_S
"""An ejected instance gets one request after so long, twice as long after each further failure."""


class Outcome(StrEnum):
    """How a request to an instance ended, as its caller saw it."""

    ANSWERED = "answered"
    FAILED = "failed"
    """A 5xx answer."""
    LATE = "late"
    """None in time."""
    RESET = "reset"
    """The connection broke before the answer was complete: whoever it was is probably dead."""
    REFUSED = "refused"
    """Nobody was there."""
    ABANDONED = "abandoned"
    """The caller gave up; it says nothing about the instance."""


class Load(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a caller has seen of one instance. Moments are on `World.now()`'s clock."""

    since: float
    """When it was first seen, or came back: slow start counts from here."""
    in_flight: int = 0
    latency_s: float = 0.0
    errors: float = 0.0
    """Share of recent time that was spent failing, 0…1."""
    at: float = 0.0
    """When `latency_s` and `errors` were last brought up to date."""
    failures: int = 0
    """In a row; `FAILURES_TO_EJECT` and more: ejected."""
    refused: bool = False
    tried: float = -math.inf
    """When it was last asked."""

    @property
    def ejected(self) -> bool:
        return self.failures >= FAILURES_TO_EJECT


def fresh(now: float) -> Load:
    """An instance that is seen for the first time."""
    return Load(since=now, at=now)


def begun(load: Load, now: float) -> Load:
    """The load once a request has been given to it."""
    return replace(load, in_flight=load.in_flight + 1, tried=now)


def ended(load: Load, now: float, took_s: float, outcome: Outcome) -> Load:
    """The load once a request has ended after `took_s`."""
    left = max(load.in_flight - 1, 0)
    if outcome is Outcome.ABANDONED:
        return replace(load, in_flight=left)
    keep = math.exp(-max(now - load.at, 0.0) / TAU_S)
    answered = outcome is Outcome.ANSWERED
    errors = load.errors * keep + (0.0 if answered else 1.0 - keep)
    if answered:
        latency = max(took_s, load.latency_s * keep + took_s * (1.0 - keep))
        since = now if load.ejected else load.since
        return Load(since=since, in_flight=left, latency_s=latency, errors=errors, at=now, tried=load.tried)
    at_once = outcome in (Outcome.REFUSED, Outcome.RESET)
    failures = max(load.failures + 1, FAILURES_TO_EJECT if at_once else 0)
    refused = outcome is Outcome.REFUSED
    return replace(load, in_flight=left, errors=errors, at=now, failures=failures, refused=refused)


def probation_s(load: Load) -> float:
    """Seconds since it was last asked after which an ejected instance gets a probing request."""
    return min(PROBATION_S * 2.0 ** min(load.failures - FAILURES_TO_EJECT, 10), PROBATION_MOST_S)


def due(load: Load, now: float) -> bool:
    """May an ejected instance be probed? One request at a time."""
    return load.in_flight == 0 and now - load.tried >= probation_s(load)


def cost(load: Load, now: float) -> float:
    """What asking it costs: expected seconds, its queue included, higher while it is new."""
    keep = math.exp(-max(now - load.at, 0.0) / TAU_S)
    expected = (load.latency_s + PENALTY_S * load.errors) * keep
    if load.in_flight and not load.latency_s:
        expected = PENALTY_S  # nothing is known yet: one request is enough to find out
    age = (now - load.since) / SLOW_START_S
    return (expected + 1e-6) * (load.in_flight + 1) / min(max(age, SLOW_START_LEAST), 1.0)
