"""What a rollout is judged by, drawn: the evidence meter, and the charts of both releases. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gapless.console.charts import Spark, on_log_scale, spark
from gapless.console.lately import Slot
from gapless.core.model import Objective, Rollout, RolloutState
from gapless.core.model.look import Look
from gapless.observe import judge
from gapless.rollout.analysis import CAUTION, parts_of_alpha
from gapless.rollout.tally import Standing, permitted_rate, slow_limit
from gapless.rollout.wanted import weight_of

TRAIL = (640, 44)
LOWEST = 0.01
"""The left end of the evidence meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needle:
    """An e-process on the meter: `value` is E, `place` 0…1 where it stands."""

    name: str
    value: float
    place: float
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A logarithmic scale from `LOWEST` to beyond `limit`, where a release is rolled back."""

    needles: tuple[Needle, ...]
    limit: float
    limit_place: float
    caution_place: float
    even_place: float
    marks: tuple[tuple[str, float], ...]


def meter_of(rollout: Rollout) -> Meter:
    limit = parts_of_alpha(rollout.policy) / rollout.policy.alpha
    seen = rollout.evidence
    highest = limit * 20

    def place(value: float) -> float:
        return round(on_log_scale(value, LOWEST, highest), 4)

    def needle(name: str, logs: Sequence[float]) -> Needle:
        value = judge.evidence(logs)
        tone = "bad" if value >= limit else "warn" if value >= CAUTION else "good"
        return Needle(name=name, value=value, place=place(value), tone=tone)

    marks = tuple((f"{mark:g}", place(mark)) for mark in (0.01, 0.1, 1, 10, 100, 1000) if mark < highest)
    return Meter(
        needles=(
            needle("errors", seen.errors),
            needle("slow answers", seen.slow),
            needle("permitted error rate", seen.broken),
            *(needle(each.name, each.logs) for each in seen.metrics if each.logs),
        ),
        limit=limit,
        limit_place=place(limit),
        caution_place=place(CAUTION),
        even_place=place(1.0),
        marks=marks,
    )


def chart_of(rollout: Rollout, objective: Objective, old: Sequence[Slot], new: Sequence[Slot]) -> str:
    """Times, then error rate (in %) and p99 (in ms) of both, with two lines: what lies surely above `limit` goes back,
    and what lies above `pass` is not promoted. They part while the stable release itself fails too often."""
    times = sorted({slot.at for slot in (*old, *new)})
    if not any(slot.window.requests for slot in (*old, *new)):
        return ""
    by_time = [{slot.at: slot for slot in side} for side in (old, new)]
    errors = [[_times(side[at].error_rate, 100) if at in side else None for at in times] for side in by_time]
    slow = [[_times(side[at].p99_s, 1000) if at in side else None for at in times] for side in by_time]
    limit_s = slow_limit(rollout.evidence, objective)
    slow_ms = round(limit_s * 1000, 1) if limit_s else None
    permitted = permitted_rate(rollout.evidence, objective, Standing(weight=weight_of(rollout)))
    return json.dumps(
        {
            "at": times,
            "marks": [[at, label] for at, label in _marks(rollout) if at],
            "names": [rollout.before, rollout.after],
            "errors": {
                "series": errors,
                "limit": round(permitted * 100, 3),
                "pass": round(objective.max_error_rate * 100, 3),
            },
            "p99": {"series": slow, "limit": slow_ms, "pass": slow_ms},
        },
        separators=(",", ":"),
    )


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 2)


def _marks(rollout: Rollout) -> list[tuple[float, str]]:
    return [
        (rollout.started_at, "begun"),
        (rollout.shifted_at, "first users"),
        (rollout.decided_at, "decided"),
        (rollout.ended_at if rollout.policy.bake_s and rollout.state is RolloutState.PROMOTED else 0.0, "promoted"),
        (rollout.baked_at, "watched"),
    ]


def trail_of(looks: Sequence[Look]) -> Spark | None:
    """The largest E of each look, from `LOWEST` at the bottom to the line where a release goes back at the top."""
    places = [
        on_log_scale(max(look.e_errors, look.e_slow, look.e_broken), LOWEST, look.e_limit)
        for look in looks
        if look.e_limit > LOWEST
    ]
    return spark(places, width=TRAIL[0], height=TRAIL[1], floor=1.0)
