"""The fleet: each service in a row, and what was changed last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gapless.console import words
from gapless.console.budget import Budget, allowed_of, budget_of
from gapless.console.charts import Spark, spark
from gapless.console.incidents import Moment, of_change, troubled
from gapless.console.lately import KEPT_S, Slot, begun, together
from gapless.console.sight import Sight
from gapless.core.model import BUCKETS, Instance, Phase, Rollout, Service, Split
from gapless.core.model.alert import Alert
from gapless.rollout.bake import baking
from gapless.rollout.wanted import plan_of, weight_of

NOW_S = 30.0
"""What "now" is in a figure: short enough to follow a change, long enough to be calm."""
CHANGES = 8
STEADY = "steady"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A release and its share (0…1) of the users. `role`: stable, new, or old."""

    release: str
    share: float
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A service. Figures are None where nobody records them."""

    name: str
    shares: tuple[Share, ...]
    ready: int
    wanted: int
    phase: str
    tone: str
    rollout: Rollout | None
    """Under way."""
    step: str
    rate: float | None
    error_rate: float | None
    p99_s: float | None
    spark: Spark | None
    errors: Spark | None
    budget: Budget | None
    public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    rows: tuple[Row, ...]
    services: int
    ready: int
    wanted: int
    rate: float
    error_rate: float | None
    moving: int
    changes: tuple[Moment, ...]


async def fleet_view(sight: Sight, _: Mapping[str, str]) -> FleetView:
    services = sight.records.services()
    slots = {s.name: await sight.answered(s.name) for s in services}
    counts = await sight.recorded.counts(sight.at)
    alarming = troubled(sight.records.all_of(Alert))
    rows = tuple(
        row(
            service,
            sight.records.split(service.name),
            sight.records.instances(service.name),
            sight.records.rollout(service.name),
            slots[service.name],
            sight.at,
            counts.get(service.name),
            alarm=service.name in alarming,
        )
        for service in services
    )
    # What comes in: calls among the services would be counted again.
    total = [together(slots[s.name], sight.at, NOW_S) for s in services if s.routes]
    requests, errors = sum(t.window.requests for t in total), sum(t.window.errors for t in total)
    return FleetView(
        rows=rows,
        services=len(rows),
        ready=sum(min(r.ready, r.wanted) for r in rows),
        wanted=sum(r.wanted for r in rows),
        rate=sum(t.rate for t in total),
        error_rate=errors / requests if requests else None,
        moving=sum(r.rollout is not None for r in rows),
        changes=tuple(map(of_change, sight.records.changes(CHANGES))),
    )


def row(
    service: Service,
    split: Split | None,
    instances: Sequence[Instance],
    newest: Rollout | None,
    slots: Sequence[Slot],
    now_at: float,
    counts: tuple[float, float] | None = None,
    *,
    alarm: bool = False,
) -> Row:
    """`counts`: requests and errors of the last 24 h, as recorded. `alarm`: somebody is called about it now."""
    ready = sum(i.phase is Phase.READY for i in instances)
    rollout = newest if newest and not newest.state.ended else None
    now = together(slots, now_at, NOW_S) if slots else None
    seen = begun(slots)
    whole = round(KEPT_S / slots[0].length_s) if slots else 0
    blank: list[float | None] = [None] * max(whole - len(seen), 0)
    phase, tone = _phase(ready, service.instances, rollout, alarm)
    watched = newest if newest and baking(newest) and phase == STEADY else None
    return Row(
        name=service.name,
        shares=_shares(split, rollout),
        ready=ready,
        wanted=service.instances,
        phase="watched" if watched else phase,
        tone="accent" if watched else tone,
        rollout=rollout,
        step=_step(rollout) if rollout else f"{watched.after}, for {_left(watched, now_at)} more" if watched else "",
        rate=now.rate if now else None,
        error_rate=now.error_rate if now else None,
        p99_s=now.p99_s if now else None,
        spark=spark(blank + [slot.rate for slot in seen], width=92, floor=1.0),
        errors=spark(blank + [slot.error_rate for slot in seen], width=64, floor=allowed_of(service.objective)),
        budget=budget_of(service.objective, counts),
        public=bool(service.routes),
    )


def _shares(split: Split | None, rollout: Rollout | None) -> tuple[Share, ...]:
    """The stable release first, so that the newcomer grows from the right."""
    if split is None:
        return ()
    weights = dict(split.weights)
    if rollout and rollout.after not in weights:
        weights[rollout.after] = 0
    newcomer = rollout.after if rollout else ""
    shares = [
        Share(release=release, share=share / BUCKETS, role="new" if release == newcomer else "stable")
        for release, share in weights.items()
    ]
    return tuple(sorted(shares, key=lambda share: share.role == "new"))


def _phase(ready: int, wanted: int, rollout: Rollout | None, alarm: bool) -> tuple[str, str]:
    if not ready:
        return "down", "bad"
    if ready < wanted:
        return "short of instances", "warn"
    if rollout and rollout.paused:
        return "paused", "warn"
    if rollout:
        return str(rollout.state), "accent"
    if alarm:
        return "alert firing", "bad"
    return STEADY, "good"


def _left(watched: Rollout, now_at: float) -> str:
    """Of the watch after a promotion."""
    return words.lasted(watched.ended_at + watched.policy.bake_s - now_at)


def _step(rollout: Rollout) -> str:
    if rollout.step < 0:
        return "before the first step"
    return f"step {rollout.step + 1} of {len(plan_of(rollout))}, {weight_of(rollout) * 100 / BUCKETS:.3g} %"
