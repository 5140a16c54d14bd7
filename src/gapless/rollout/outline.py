"""What would happen: a rollout's own decisions, taken in a world where everything goes well. Pure.

There is no second copy of the logic: `train.advance` is asked as it would be, by a fleet whose instances are ready
after a while, a gateway that obeys at once, users who come at the present rate and meet no error, and people who
approve and resume as soon as they are asked to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gapless.core.model import (
    BUCKETS,
    Calendar,
    JudgedBy,
    Objective,
    Pool,
    Rollout,
    RolloutState,
    Split,
    Window,
)
from gapless.rollout.calendar import closed
from gapless.rollout.commands import approve, resume
from gapless.rollout.gates import described
from gapless.rollout.holds import unapproved
from gapless.rollout.observed import Observed
from gapless.rollout.scene import Outcome, title
from gapless.rollout.train import Member, advance
from gapless.rollout.wanted import plan_of, weight_of

READY_AFTER_S = 3.0
"""An instance's start, where nothing is known of earlier ones."""
UNKNOWN_RATE = 1_000.0
"""Requests per second where none are seen: then samples take no time, and a warning says so."""
SHORTEST_S, LONGEST_S = 0.5, 6 * 3600.0
"""Between two looks. When something happens within a longer time, it is looked at more closely."""
LOOKS = 1_500
"""A rollout that has not ended after so many is told as far as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A rollout as it would begin. `needs`: services that it calls; `rate`: requests per second that its service gets,
    0 where none are seen."""

    rollout: Rollout
    objective: Objective
    calendars: tuple[Calendar, ...] = ()
    needs: frozenset[str] = frozenset()
    start_s: float = 30.0
    ready_after_s: float = READY_AFTER_S
    rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One thing that would happen, so many seconds from now. `wanted` are instances by release; `started` and `stopped`
    count those of this moment. `share` (0…1) is the new release's."""

    after_s: float
    service: str
    what: str
    why: str = ""
    share: float = 0.0
    wanted: Mapping[str, int] = field(default_factory=dict)
    started: int = 0
    stopped: int = 0
    hold_s: float = 0.0
    """Of a step: its least time."""
    samples: int = 0
    """Of a step: requests that the new release must have answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """In order. `ends`: how each service's rollout ends."""

    happenings: tuple[Happening, ...]
    ends: Mapping[str, str]
    duration_s: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stand:
    """A rollout in the world where all goes well. `ready_at`: by release, when each instance is."""

    part: Part
    rollout: Rollout
    split: Split
    pool: Pool
    ready_at: Mapping[str, tuple[float, ...]]

    def observed(self, now_at: float) -> Observed:
        ready = {release: sum(at <= now_at for at in found) for release, found in self.ready_at.items()}
        running = {release: len(found) for release, found in self.ready_at.items()}
        return Observed(ready=ready, running=running, split=self.split, applied=self.split, pool=self.pool)

    def member(self, now_at: float, since_at: float, begun_at: float) -> Member:
        canary, stable = (
            Window(requests=self._answered(release, now_at - begun_at) - self._answered(release, since_at - begun_at))
            for release in (self.rollout.after, self.rollout.before)
        )
        return Member(
            rollout=self.rollout,
            observed=self.observed(now_at),
            canary=canary,
            stable=stable,
            objective=self.part.objective,
            start_s=self.part.start_s,
            needs=self.part.needs,
        )

    def _answered(self, release: str, until_s: float) -> int:
        return int((self.part.rate or UNKNOWN_RATE) * dict(self.split.weights).get(release, 0) / BUCKETS * until_s)

    def after(self, outcome: Outcome, now_at: float) -> _Stand:
        pool = outcome.pool or self.pool
        return _Stand(
            part=self.part,
            rollout=outcome.rollout,
            split=outcome.split or self.split,
            pool=pool,
            ready_at={release: self._fit(release, size, now_at) for release, size in pool.sizes.items()},
        )

    def _fit(self, release: str, size: int, now_at: float) -> tuple[float, ...]:
        has = self.ready_at.get(release, ())[:size]
        return has + (now_at + self.part.ready_after_s,) * (size - len(has))


def outline(parts: Sequence[Part], now_at: float) -> Outline:
    """The rollouts of `parts`, which move together when there are several, from now to their end."""
    begun_at, passed_s = now_at, SHORTEST_S
    stands, happenings = [_begun(part) for part in parts], []
    for _ in range(LOOKS):
        after, found = _look(stands, now_at + passed_s, now_at, begun_at)
        if found and passed_s > SHORTEST_S:
            passed_s = max(passed_s / 2, SHORTEST_S)
            continue
        now_at += passed_s
        stands, passed_s = after, SHORTEST_S if found else min(2 * passed_s, LONGEST_S)
        happenings += found
        if all(stand.rollout.state.ended for stand in stands):
            break
    happenings += [told for stand in stands for told in _afterwards(stand, now_at - begun_at)]
    return Outline(
        happenings=tuple(happenings),
        ends={stand.rollout.service: _end(stand.rollout) for stand in stands},
        duration_s=now_at - begun_at,
        warnings=tuple(warning for part in parts for warning in _warnings(part, happenings, begun_at)),
    )


def _begun(part: Part) -> _Stand:
    rollout = part.rollout
    sizes = {rollout.before: rollout.instances}
    return _Stand(
        part=part,
        rollout=rollout,
        split=Split(service=rollout.service, stable=rollout.before, weights=((rollout.before, BUCKETS),)),
        pool=Pool(service=rollout.service, sizes=sizes),
        ready_at={rollout.before: (0.0,) * rollout.instances},
    )


def _look(
    stands: Sequence[_Stand], now_at: float, since_at: float, begun_at: float
) -> tuple[list[_Stand], list[Happening]]:
    calendars = [calendar for stand in stands for calendar in stand.part.calendars]
    members = [stand.member(now_at, since_at, begun_at) for stand in stands]
    outcomes = advance(members, now_at, closed(calendars, now_at))
    after = [stand.after(outcome, now_at) for stand, outcome in zip(stands, outcomes, strict=True)]
    found = [
        told
        for stand, then, outcome in zip(stands, after, outcomes, strict=True)
        for told in _happened(stand, then, outcome, now_at - begun_at)
    ]
    return [_helped(stand, now_at) for stand in after], found


def _happened(stand: _Stand, then: _Stand, outcome: Outcome, after_s: float) -> Iterator[Happening]:
    changes = [then.pool.sizes.get(release, 0) - size for release, size in _all_sizes(stand, then).items()]
    started, stopped = sum(n for n in changes if n > 0), -sum(n for n in changes if n < 0)
    base = Happening(
        after_s=after_s,
        service=then.rollout.service,
        what="",
        share=weight_of(then.rollout) / BUCKETS,
        wanted={release: size for release, size in then.pool.sizes.items() if size},
    )
    if then.rollout.step > stand.rollout.step:
        own_s = plan_of(then.rollout)[then.rollout.step].hold_s
        policy = then.rollout.policy
        base = replace(base, hold_s=policy.hold_s if own_s is None else own_s, samples=policy.min_samples)
    for act in outcome.acts:
        yield replace(base, what=act.what.removeprefix(f"{title(then.rollout)}: "), why=act.why)
    if started or stopped:
        yield replace(base, what="instances", started=started, stopped=stopped)
    begins = then.rollout.state is RolloutState.STARTING and started
    for gate in described(then.rollout.policy) if begins else ():
        yield replace(base, what=gate, why="once the instances are ready, before any user meets them")


def _all_sizes(stand: _Stand, then: _Stand) -> dict[str, int]:
    return {release: stand.pool.sizes.get(release, 0) for release in (*stand.pool.sizes, *then.pool.sizes)}


def _helped(stand: _Stand, now_at: float) -> _Stand:
    """Somebody approves, or resumes, at once."""
    rollout = stand.rollout
    if rollout.state.ended or rollout.state is RolloutState.FINISHING:
        return stand
    if rollout.paused and not rollout.paused_until_at:
        return replace(stand, rollout=resume(rollout, now_at))
    if rollout.waiting and rollout.waiting == unapproved(rollout, rollout.step + 1):
        return replace(stand, rollout=approve(rollout, "somebody", "dry run", now_at))
    return stand


def _afterwards(stand: _Stand, after_s: float) -> Iterator[Happening]:
    rollout, policy = stand.rollout, stand.rollout.policy
    if rollout.state is not RolloutState.PROMOTED:
        return
    base = Happening(after_s=after_s, service=rollout.service, what="", share=1.0, wanted=stand.pool.sizes)
    if rollout.keeping:
        why = f"`gapless rollback {rollout.service}` returns to them at once until then"
        what = f"the {stand.pool.sizes.get(rollout.before, 0)} instances of {rollout.before} are kept until now"
        yield replace(base, after_s=after_s + policy.keep_s, what=what, why=why)
    if policy.bake_s:
        why = f"until then harm takes {rollout.before} back by itself"
        yield replace(base, after_s=after_s + policy.bake_s, what="the bake is over", why=why)


def _end(rollout: Rollout) -> str:
    return str(rollout.state) if rollout.state.ended else f"not within sight: {rollout.waiting or rollout.state}"


def _warnings(part: Part, happenings: Iterable[Happening], now_at: float) -> Iterator[str]:
    rollout, name = part.rollout, part.rollout.service
    if (shut := closed(part.calendars, now_at)) and not rollout.override:
        yield f"{name}: {shut}"
    most = max((sum(h.wanted.values()) for h in happenings if h.service == name), default=rollout.instances)
    if most > rollout.instances:
        yield f"{name}: up to {most} instances at once, where {rollout.instances} are asked for"
    if rollout.policy.judged_by is JudgedBy.HEALTH:
        yield f"{name}: judged by health alone: what it answers is not looked at"
    elif rollout.policy.min_samples and not part.rate:
        yield (
            f"{name}: no request was seen lately; each step waits for {rollout.policy.min_samples} of the new release, "
            f"for {rollout.policy.patience_s:g} s at most"
        )
