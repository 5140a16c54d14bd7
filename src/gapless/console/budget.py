"""How much of what may fail is left. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gapless.console import words
from gapless.core.model import Objective

ENOUGH = 20
"""Below so many requests a share is an accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Of the last 24 h, as far as they are recorded. `left`: 1 = nothing has failed, 0 = as much as may fail, below:
    more. `allowed`: the share (0…1) that may."""

    left: float
    allowed: float
    requests: int
    errors: int

    @property
    def tone(self) -> str:
        return "bad" if self.left <= 0 else "warn" if self.left < 0.5 else "good"

    @property
    def told(self) -> str:
        """In two words for people."""
        return words.percent(self.left) if self.left > 0 else f"spent {words.times(1 - self.left)}"

    @property
    def bar(self) -> float:
        """For a gauge from 0 to 100."""
        return round(max(min(self.left, 1.0), 0.0) * 100, 1)


def budget_of(objective: Objective, counts: tuple[float, float] | None) -> Budget | None:
    """`counts`: requests and errors; None before enough of them are recorded."""
    requests, errors = counts or (0.0, 0.0)
    if requests < ENOUGH:
        return None
    allowed = allowed_of(objective)
    left = 1 - errors / requests / allowed if allowed else float(not errors)
    return Budget(left=left, allowed=allowed, requests=round(requests), errors=round(errors))


def allowed_of(objective: Objective) -> float:
    """The share (0…1) of requests that may fail: what `availability` leaves, else what a release may do at most."""
    return 1 - objective.availability if objective.availability else objective.max_error_rate


def burn_rate(objective: Objective, error_rate: float | None) -> float | None:
    """How many times faster than permitted the budget is spent: 1 = just so."""
    allowed = allowed_of(objective)
    return None if error_rate is None or not allowed else error_rate / allowed
