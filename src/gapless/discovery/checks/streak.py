"""From single results to a status: how many in a row it takes, as Consul counts them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gapless.discovery.catalog.values import Definition, Status


@dataclass(frozen=True, slots=True)
class Streak:
    """Results of the same kind in a row: either count is 0."""

    good: int = 0
    bad: int = 0

    def after(self, result: str) -> Streak:
        """A warning is an answer, so it counts with the good ones."""
        return Streak(bad=self.bad + 1) if result == Status.CRITICAL else Streak(good=self.good + 1)


FRESH = Streak()


def verdict(definition: Definition, streak: Streak, result: str) -> str | None:
    """The status that a result leads to, the streak counting it; None: not enough in a row, all stays as it is."""
    if result != Status.CRITICAL:
        return result if streak.good >= definition.success_before_passing else None
    if streak.bad >= definition.failures_before_critical:
        return Status.CRITICAL
    warning = definition.failures_before_warning
    return Status.WARNING if 0 < warning <= streak.bad else None
