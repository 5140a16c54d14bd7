"""How much is allowed: "100/s", "20/10s", "6000/min", "1000/h"."""

from __future__ import annotations

import math
import re

from gapless.core.errors import ConfigError
from gapless.core.value import Value

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUOTA = r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)?\s*([a-z]+)\s*"


class Quota(Value, kw_only=False):
    """`count` calls in `per_s` seconds, of which `burst` may come at once after a quiet time."""

    count: float
    per_s: float
    burst: float

    @property
    def interval_s(self) -> float:
        """Between two calls at the full rate; infinite when nothing is allowed."""
        return self.per_s / self.count if self.count else math.inf

    @property
    def tolerance_s(self) -> float:
        """How far ahead of the clock a bucket may run: `burst` calls of it."""
        return self.burst * self.interval_s if self.count else 0.0

    def share(self, processes: int) -> Quota:
        """One of `processes` equal parts."""
        return Quota(self.count / processes, self.per_s, max(self.burst / processes, 1.0))

    def __str__(self) -> str:
        return f"{self.count:g}/{self.per_s:g}s"


def quota(text: str | Quota, burst: float | None = None) -> Quota:
    """`burst` defaults to the whole count: "100/s" allows 100 calls at once. Raises ConfigError."""
    if isinstance(text, Quota):
        return text
    match = re.fullmatch(_QUOTA, text)
    if match is None or match[3] not in UNITS_S:
        raise ConfigError(
            f"{text!r} is no rate", f"Write calls/time, as in 100/s or 20/10s; units: {', '.join(UNITS_S)}."
        )
    count, per_s = float(match[1]), float(match[2] or 1) * UNITS_S[match[3]]
    if per_s <= 0.0 or (burst is not None and burst < 1.0):
        raise ConfigError(f"{text!r} with burst {burst} admits nothing", "Time must be above 0 and burst at least 1.")
    return Quota(count, per_s, max(burst if burst is not None else count, 1.0))
