"""Who leads when several control planes share a store: the rules, as pure functions of what is known and the time.

The leader is whoever wrote the key `LEADER`, which hangs on a lease of his. Its revision is his term: every write that
he makes names it, so that one who was deposed without noticing (stopped, cut off) writes nothing more. By his own clock
he gives up acting before the store can give the lease up, so that two never act at once.
"""

from __future__ import annotations

from dataclasses import dataclass

LEADER = "control/leader"
STANDBYS = "control/standby/"
HOME = "control/home"

LEASE_S = 5.0
"""A killed leader is followed after so long, give or take a look. Shorter: a short pause of a store's server deposes a
healthy one. Longer: nobody replaces instances meanwhile (requests do not need the control plane)."""
HOLD_S = 4.0
"""Without a renewal for so long the leader stops acting. Counted from before the renewal was sent, so always less than
what the store counts; the rest is for an act that is under way."""
RENEW_EVERY_S = 1.0
RETRY_S = 0.2
"""After a renewal that failed."""
LOOK_EVERY_S = 0.5
"""How often who stands by looks whether there is a leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A control plane, as the others see it; kept under LEADER and STANDBYS."""

    id: str
    machine: str
    pid: int
    since_at: float = 0.0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.partition('/')[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """The right to lead: LEADER is ours at this revision, and was for sure at `held_at` (seconds, our own clock)."""

    revision: int
    held_at: float


@dataclass(frozen=True, slots=True)
class Campaign:
    """There is no leader: try to become it. `expect`: the revision of LEADER, 0 when it is absent."""

    expect: int = 0


@dataclass(frozen=True, slots=True)
class Renew:
    """Tell the store that we are still there."""


@dataclass(frozen=True, slots=True)
class StepDown:
    """Stop acting: somebody else may lead from now on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for so many seconds."""

    seconds: float


def follow(me: str, leader: Candidate | None, revision: int) -> Campaign | Wait:
    """What one who stands by, by his id, does about the leader that he sees. His own name there is a term that he gave
    up when the store could not be told: nobody else acts in it."""
    if leader is None:
        return Campaign()
    return Campaign(revision) if leader.id == me else Wait(LOOK_EVERY_S)


def lead(term: Term, now: float, *, failed: bool = False) -> Renew | StepDown | Wait:
    """What the leader does about his term. `failed`: the renewal just tried did not get through."""
    since = now - term.held_at
    if not holds(term, now):
        return StepDown(f"the lease could not be renewed for {since:.1f} s")
    if failed:
        return Wait(min(RETRY_S, HOLD_S - since))
    return Renew() if since >= RENEW_EVERY_S else Wait(RENEW_EVERY_S - since)


def holds(term: Term, now: float) -> bool:
    """Whether he may still act."""
    return now - term.held_at < HOLD_S
