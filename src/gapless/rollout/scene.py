"""What the next move of a rollout depends on, and what comes out of it. Shared by the moves of each state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gapless.core.model import Pool, Rollout, Split
from gapless.rollout.analysis import Verdict
from gapless.rollout.calendar import Closed
from gapless.rollout.commands import decide
from gapless.rollout.observed import Failure, Observed
from gapless.rollout.wanted import new_needed

POOL_TIMES = 3
"""Start limits in which a whole pool must be ready: its instances share the machine's processors while they start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """An entry for the change log: what was decided, why, and the numbers behind it."""

    what: str
    why: str
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is to be written, in one transaction. None and () mean unchanged."""

    rollout: Rollout
    split: Split | None = None
    pool: Pool | None = None
    acts: tuple[Act, ...] = ()
    verdict: Verdict | None = None
    """Of this look, for people who watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leash:
    """What the others of a train allow."""

    held: str = ""
    """Why it may not go forward yet; empty: it may."""
    back_held: bool = False
    """Those that call it go back before it does."""


FREE = Leash()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that the next move depends on, beside the rollout."""

    observed: Observed
    verdict: Verdict
    now_at: float
    start_s: float
    closed: Closed | None = None
    """Why releases may not be moved now; None: they may."""
    leash: Leash = FREE

    def ready(self, rollout: Rollout) -> int:
        """Ready instances of the new release."""
        return self.observed.ready.get(rollout.after, 0)

    def deserted(self, rollout: Rollout) -> bool:
        """The new release has nobody left to answer, while the old one has."""
        return not self.ready(rollout) and self.observed.ready.get(rollout.before, 0) > 0

    def failures(self, rollout: Rollout) -> list[Failure]:
        """Of this step's instances, those that were never ready."""
        return [failure for failure in self.observed.failures if failure.at >= rollout.since_at]

    def late(self, rollout: Rollout, times: float) -> bool:
        """Has the wait for instances taken so many start limits?"""
        since_at = max(rollout.since_at, self.observed.began_at)
        return self.now_at - since_at > times * self.start_s


Move = tuple[Rollout, tuple[Act, ...]]
"""The rollout after a move, and what is to be told of it."""


def title(rollout: Rollout) -> str:
    return f"rollout {rollout.number} of {rollout.service}"


def act(rollout: Rollout, what: str, why: str, scene: Scene, numbers: Mapping[str, float] | None = None) -> Act:
    """An entry that begins with the rollout's name; beside `numbers` it has those of the verdict and of instances."""
    instances = {"ready": scene.ready(rollout), "needed": new_needed(rollout)}
    return Act(
        what=f"{title(rollout)}: {what}", why=why, numbers={**scene.verdict.numbers, **instances, **(numbers or {})}
    )


def go_back(rollout: Rollout, reason: str, scene: Scene, log: str = "") -> Move:
    """All users to the release before, at once."""
    done = f"back to {rollout.before}" if rollout.shifted_at else f"{rollout.after} refused, no user has met it"
    told = act(rollout, done, reason, scene)
    return decide(rollout, rollout.before, reason, scene.now_at, log), (told,)
