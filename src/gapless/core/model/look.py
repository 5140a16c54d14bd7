"""What was seen and judged at one look at a rollout, and how such looks are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look, or several put together: counts are added up, the largest E stays, and all else is the last one's.

    `canary_*` and `stable_*` are what was answered since the look before; p99s are of the recent answers, in seconds.
    """

    at: float
    weight: int
    """The canary's share in buckets of 10,000."""
    decision: str
    reason: str
    canary_requests: int = 0
    canary_errors: int = 0
    stable_requests: int = 0
    stable_errors: int = 0
    canary_p99_s: float = 0.0
    stable_p99_s: float = 0.0
    e_errors: float = 1.0
    e_slow: float = 1.0
    e_broken: float = 1.0
    e_limit: float = 0.0
    power: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the metrics of the business, as in the change log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookChunk:
    """Some looks of a rollout in a row: one key. `level` says how often they were thinned."""

    first: int
    """The number of its first look, counted from 0."""
    level: int
    looks: tuple[Look, ...]
