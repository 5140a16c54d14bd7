"""What a release is judged by beside errors and latency, what was read of it, and what comes of no evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Better(StrEnum):
    HIGHER = "higher"
    LOWER = "lower"


class NoEvidence(StrEnum):
    """What becomes of a step that has found no evidence within its patience."""

    HOLD = "hold"
    PROMOTE = "promote"
    ROLLBACK = "roll back"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRule:
    """One metric by name. Counted (`metric` per `per`, two counters): compared as errors are, in an e-process. Else a
    value (`metric` or `query`), which is compared with that of the stable release at each reading."""

    name: str
    metric: str = ""
    """As recorded, for instance `orders_paid_total`; instances say `service` and `release` in its labels."""
    per: str = ""
    """The counter of all that could have become such an event, for instance `carts_total`."""
    query: str = ""
    """PromQL instead of `metric`; `$service` and `$release` are replaced."""
    of: str = "value"
    """What of a single metric is read: `value`, `rate`, `mean` or `quantile` (the p99)."""
    better: Better = Better.HIGHER
    tolerance: float = 0.1
    """How much worse than the stable release, as a share, is no harm."""
    samples: int = 20
    """Of a counted one: how many of `per` the canary must have had at a step before the next one."""
    after_s: float = 0.0
    """Nothing is read before a step has held for so long: an effect may come long after its cause."""

    @property
    def counted(self) -> bool:
        return bool(self.per)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What both releases' metric came to. Counted: events, and out of how many, since the last reading. Else values
    now; None where nothing is recorded."""

    name: str
    canary: float | None = None
    stable: float | None = None
    canary_of: float = 0.0
    stable_of: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEvidence:
    """All that was read of a metric: sums since the first user was moved, or the last values."""

    name: str
    logs: tuple[float, ...] = ()
    """The e-process, as in `Evidence.errors`."""
    canary: float | None = None
    stable: float | None = None
    canary_of: float = 0.0
    stable_of: float = 0.0
    step_of: float = 0.0
    """What the canary has had of `per` at this step."""
    readings: int = 0
    """Readings at this step that found both releases."""
    worse: int = 0
    """How many of them in a row, up to the last, were worse than tolerated."""
