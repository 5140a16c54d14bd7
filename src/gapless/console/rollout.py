"""A rollout: its steps, both releases against each other, the evidence, and the reason of each decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gapless.console import words
from gapless.console.bake import Bake, bake_of, watched_until
from gapless.console.charts import Spark
from gapless.console.evidence import Meter, chart_of, meter_of, trail_of
from gapless.console.history import history
from gapless.console.incidents import Moment, named, of_changes
from gapless.console.lately import Slot, together
from gapless.console.sight import Sight
from gapless.core.errors import UnknownName
from gapless.core.model import BUCKETS, Evidence, Rollout, RolloutState, Service
from gapless.core.model.gates import GateResult
from gapless.rollout.holds import unapproved
from gapless.rollout.wanted import plan_of, weight_of

RECENT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`state`: done, now, next, or left out when the rollout ended before."""

    share: float
    instances: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of both releases, by the figures that it is judged by and those of the last half minute."""

    release: str
    role: str
    share: float
    requests: int
    errors: int
    error_rate: float | None
    p99_s: float | None
    rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What can be done now."""

    verb: str
    title: str
    question: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A gate, and its figures for people: of a mirror, how many answers were compared and how many differed."""

    result: GateResult
    numbers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    service: str
    services: tuple[tuple[str, bool], ...]
    """The tabs: each service, and whether a rollout of it is under way."""
    rollout: Rollout | None
    steps: tuple[Step, ...]
    bake: Bake | None
    """The watch after the promotion."""
    sides: tuple[Side, ...]
    meter: Meter | None
    trail: Spark | None
    """How the evidence went, on the meter's scale."""
    chart: str
    """JSON for the browser's charts; empty when nothing was recorded."""
    acts: tuple[Act, ...]
    now: str
    """What it is waiting for, or how it ended, in a sentence."""
    tone: str
    decisions: tuple[Moment, ...]
    older: tuple[Rollout, ...]
    gates: tuple[Passage, ...]
    source: str
    routed: bool


async def rollouts_view(sight: Sight, params: Mapping[str, str]) -> RolloutView:
    """Of a service (else the one that moves, else that which moved last), and of a number (else the newest)."""
    services = sight.records.services()
    newest = {s.name: sight.records.rollout(s.name) for s in services}
    name = params.get("service") or _foremost(newest)
    tabs = tuple((each, bool((r := newest[each]) and not r.state.ended)) for each in newest)
    service = sight.records.service(name)
    if service is None:
        raise UnknownName(f"there is no service {name!r}", f"The services are: {', '.join(newest)}.")
    all_of_it = sight.records.rollouts(name)
    rollout = _chosen(all_of_it, params.get("number", ""), name)
    if rollout is None:
        return _empty(name, tabs, bool(service.routes))
    return await _full(sight, service, rollout, tabs, all_of_it)


def _foremost(newest: Mapping[str, Rollout | None]) -> str:
    def rank(name: str) -> tuple[bool, float]:
        rollout = newest[name]
        return (bool(rollout and not rollout.state.ended), rollout.started_at if rollout else 0.0)

    return max(newest, key=rank, default="")


def _chosen(rollouts: Sequence[Rollout], number: str, name: str) -> Rollout | None:
    if not number:
        return rollouts[-1] if rollouts else None
    found = next((r for r in rollouts if str(r.number) == number), None)
    if found is None:
        raise UnknownName(f"{name} has had no rollout {number}", "See the list of its rollouts.")
    return found


def _empty(name: str, tabs: tuple[tuple[str, bool], ...], routed: bool) -> RolloutView:
    return RolloutView(
        service=name,
        services=tabs,
        rollout=None,
        steps=(),
        bake=None,
        sides=(),
        meter=None,
        trail=None,
        chart="",
        acts=(),
        now="",
        tone="",
        decisions=(),
        older=(),
        gates=(),
        source="",
        routed=routed,
    )


async def _full(
    sight: Sight,
    service: Service,
    rollout: Rollout,
    tabs: tuple[tuple[str, bool], ...],
    all_of_it: Sequence[Rollout],
) -> RolloutView:
    until_at = watched_until(rollout, sight.at)
    here = [c for c in sight.records.changes(500) if c.service == service.name]
    during = [m for m in of_changes(sight, here) if rollout.started_at - 0.5 <= m.at <= until_at + 0.5]
    looks = await sight.plane.lookbook.looks(service.name, rollout.number)
    old, new = await history(sight, rollout, looks)
    bake = bake_of(rollout, [each for each in all_of_it if each.number > rollout.number], looks, sight.at)
    now, tone = standing(rollout, looks[-1].reason if looks else "")
    if bake and bake.text:
        now, tone = bake.text, bake.tone
    release = sight.records.release(service.name, rollout.after)
    return RolloutView(
        service=service.name,
        services=tabs,
        rollout=rollout,
        steps=steps_of(rollout),
        bake=bake,
        sides=sides_of(rollout, old, new, until_at),
        meter=meter_of(rollout) if rollout.shifted_at else None,
        trail=trail_of(looks),
        chart=chart_of(rollout, service.objective, old, new),
        acts=acts_of(rollout, rollout is all_of_it[-1]),
        now=now,
        tone=tone,
        decisions=tuple(during),
        older=tuple(reversed(all_of_it)),
        gates=tuple(
            Passage(result=result, numbers=named(result.numbers))
            for result in sight.records.gate_results(service.name, rollout.number)
        ),
        source=release.source if release else "",
        routed=bool(service.routes),
    )


def steps_of(rollout: Rollout) -> tuple[Step, ...]:
    plan = plan_of(rollout)
    reached = len(plan) if rollout.state is RolloutState.PROMOTED else rollout.step
    return tuple(
        Step(
            share=step.weight / BUCKETS,
            instances=step.new_instances,
            state=_step_state(rollout, place, reached),
        )
        for place, step in enumerate(plan)
    )


def _step_state(rollout: Rollout, place: int, reached: int) -> str:
    if place < reached or (place == reached and rollout.state.ended):
        return "undone" if rollout.winner == rollout.before else "done"
    if place == reached and not rollout.state.ended:
        return "now"
    return "left out" if rollout.winner == rollout.before else "next"


def sides_of(rollout: Rollout, old: Sequence[Slot], new: Sequence[Slot], end_at: float) -> tuple[Side, ...]:
    """`end_at`: the moment that the figures of late lead up to."""
    seen, share = rollout.evidence, _share(rollout)
    return (
        _side(rollout.before, "stable", 1 - share, (seen.stable_requests, seen.stable_errors), old, end_at),
        _side(rollout.after, "new", share, (seen.canary_requests, seen.canary_errors), new, end_at),
    )


def _share(rollout: Rollout) -> float:
    if rollout.state is RolloutState.PROMOTED:
        return 1.0
    return 0.0 if rollout.winner == rollout.before else weight_of(rollout) / BUCKETS


def _side(release: str, role: str, share: float, counts: tuple[int, int], slots: Sequence[Slot], end_at: float) -> Side:
    requests, errors = counts
    recent = together(slots, end_at, RECENT_S) if slots else None
    return Side(
        release=release,
        role=role,
        share=share,
        requests=requests,
        errors=errors,
        error_rate=errors / requests if requests else None,
        p99_s=recent.p99_s if recent else None,
        rate=recent.rate if recent else None,
    )


ABORT = Act(
    verb="abort",
    title="Abort",
    question="All users go back to {before} at once. {after} is drained when the gateway has moved them.",
    tone="bad",
)
PROMOTE = Act(
    verb="promote",
    title="Promote now",
    question="The steps that are left are skipped: everybody gets {after} as soon as its instances are ready.",
    tone="accent",
)
PAUSE = Act(
    verb="pause",
    title="Pause",
    question="No more users are moved until it is resumed. It is still watched, and rolled back when it does harm.",
    tone="plain",
)
APPROVE = Act(
    verb="approve",
    title="Approve",
    question="Users come to the next step of {after}, which waits for somebody to say so.",
    tone="accent",
)
SKIP = Act(
    verb="skip",
    title="Next step",
    question="The present step is passed without waiting for its evidence. {after} is still watched.",
    tone="plain",
)
RESUME = Act(verb="resume", title="Resume", question="The rollout to {after} goes on.", tone="accent")
ROLL_BACK = Act(
    verb="rollback",
    title="Roll back",
    question="Begins a rollout from {after} back to {before}, in one step.",
    tone="bad",
)


def acts_of(rollout: Rollout, newest: bool) -> tuple[Act, ...]:
    """What a person may do with it now; their questions name the releases."""
    if rollout.state in (RolloutState.SCHEDULED, RolloutState.STARTING, RolloutState.SHIFTING):
        chosen = [*_forward(rollout), RESUME if rollout.paused else PAUSE, ABORT]
    elif rollout.state is RolloutState.PROMOTED and newest:
        chosen = [ROLL_BACK]
    else:
        chosen = []
    return tuple(
        Act(
            verb=act.verb,
            title=act.title,
            question=act.question.format(before=rollout.before, after=rollout.after),
            tone=act.tone,
        )
        for act in chosen
    )


def _forward(rollout: Rollout) -> list[Act]:
    if rollout.winner == rollout.after:
        return []
    if unapproved(rollout, rollout.step + 1) and rollout.state is RolloutState.SHIFTING:
        return [APPROVE, PROMOTE]
    more = rollout.state is RolloutState.SHIFTING and 0 <= rollout.step < len(plan_of(rollout)) - 1
    return [PROMOTE, SKIP] if more else [PROMOTE]


def standing(rollout: Rollout, last_look: str = "") -> tuple[str, str]:
    """How it stands, as a sentence, and its tone. `last_look`: the reason that the analysis gave."""
    if rollout.state is RolloutState.PROMOTED:
        return rollout.reason or "everybody has the new release", "good"
    if rollout.state is RolloutState.ROLLED_BACK:
        return rollout.reason or "everybody has the old release", "bad"
    if rollout.state is RolloutState.FINISHING:
        return f"{rollout.winner} gets all users: {rollout.reason}", "accent"
    if rollout.paused:
        return _paused(rollout), "warn"
    if rollout.waiting:
        return f"Waits: {rollout.waiting.partition(': `')[0]}.", "warn"
    if rollout.state is RolloutState.SCHEDULED:
        return "It waits for its time; nothing has been done yet.", "accent"
    if rollout.state is RolloutState.STARTING:
        return f"Instances of {rollout.after} are being started; no user meets them yet.", "accent"
    return last_look or _lacking(rollout, rollout.evidence), "accent"


def _paused(rollout: Rollout) -> str:
    if rollout.by_hand < 0:
        return "Paused: no more users are moved, and it is still watched."
    share = words.weight(weight_of(rollout) / BUCKETS)
    return f"Paused, with {share} of the users on {rollout.after} by hand. It is still watched."


def _lacking(rollout: Rollout, seen: Evidence) -> str:
    needed = rollout.policy.min_samples
    if seen.step_requests < needed:
        return f"{seen.step_requests} of {needed} requests seen at this step."
    return f"{seen.step_requests} requests seen at this step; it goes on when it has held for long enough."
