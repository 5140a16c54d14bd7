"""How looks are kept: all of them for some minutes, then ever fewer of them, so that days fit into little. Pure.

Looks are written in chunks of 60. Ten full chunks stay as they are; when there are twenty, the ten oldest become one,
in which each look stands for ten; so with these chunks in turn. The looks of a step's first and last moment, and those
at which the decision changed, are never put together with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gapless.core.model import BUCKETS, Rollout, RolloutState, Window
from gapless.core.model.look import Look, LookChunk
from gapless.rollout.analysis import Verdict
from gapless.rollout.wanted import weight_of

CHUNK = 60
MERGED = 10
"""So many looks become one, and so many chunks."""
KEPT_FULL = 10
"""Chunks of each level that stay."""
REASON_LETTERS = 200
IDLE_S = 10.0
"""A look that saw nothing and changed nothing is kept so seldom."""


def look_of(rollout: Rollout, verdict: Verdict, canary: Window, stable: Window, now_at: float) -> Look:
    """What is kept of a look. One that was promoted, at whatever step, has all the users."""
    numbers = verdict.numbers
    return Look(
        at=now_at,
        weight=BUCKETS if rollout.state is RolloutState.PROMOTED else weight_of(rollout),
        decision=str(verdict.decision),
        reason=verdict.reason[:REASON_LETTERS],
        canary_requests=canary.requests,
        canary_errors=canary.errors,
        stable_requests=stable.requests,
        stable_errors=stable.errors,
        canary_p99_s=numbers.get("canary_p99_s", 0.0),
        stable_p99_s=numbers.get("stable_p99_s", 0.0),
        e_errors=numbers.get("e_errors", 1.0),
        e_slow=numbers.get("e_slow", 1.0),
        e_broken=numbers.get("e_broken", 1.0),
        e_limit=numbers.get("e_limit", 0.0),
        power=numbers.get("power", 0.0),
        metrics={name: value for name, value in numbers.items() if "." in name},
    )


def is_worth_keeping(last: Look | None, look: Look) -> bool:
    """Looks come twice a second, and most of them find nothing new in the second that is not over yet."""
    if last is None or last.weight != look.weight or last.decision != look.decision:
        return True
    return bool(look.canary_requests or look.stable_requests) or look.at - last.at >= IDLE_S


def merged(chunks: Sequence[LookChunk]) -> tuple[LookChunk, tuple[LookChunk, ...]] | None:
    """The chunk that the oldest ones of some level become, and those that it stands for; None while all may stay."""
    for level in sorted({chunk.level for chunk in chunks}):
        same = [chunk for chunk in chunks if chunk.level == level]
        if len(same) >= KEPT_FULL + MERGED:
            old = tuple(same[:MERGED])
            looks = thinned([look for chunk in old for look in chunk.looks])
            return LookChunk(first=old[0].first, level=level + 1, looks=looks), old
    return None


def thinned(looks: Sequence[Look]) -> tuple[Look, ...]:
    """A tenth of the looks, and those at which something changed."""
    kept: list[Look] = []
    group: list[Look] = []
    for place, look in enumerate(looks):
        marked = _changed(looks, place)
        if marked or len(group) == MERGED:
            kept += [_together(group)] if group else []
            group = []
        if marked:
            kept.append(look)
        else:
            group.append(look)
    return (*kept, *([_together(group)] if group else []))


def _changed(looks: Sequence[Look], place: int) -> bool:
    around = looks[max(place - 1, 0) : place + 2]
    return len({(look.weight, look.decision) for look in around}) > 1


def _together(looks: Sequence[Look]) -> Look:
    return replace(
        looks[-1],
        canary_requests=sum(look.canary_requests for look in looks),
        canary_errors=sum(look.canary_errors for look in looks),
        stable_requests=sum(look.stable_requests for look in looks),
        stable_errors=sum(look.stable_errors for look in looks),
        e_errors=max(look.e_errors for look in looks),
        e_slow=max(look.e_slow for look in looks),
        e_broken=max(look.e_broken for look in looks),
    )


def in_order(chunks: Iterable[LookChunk]) -> list[Look]:
    """All looks that are kept, oldest first, each once: a chunk may be seen beside the one that it became a part of."""
    found: list[Look] = []
    for chunk in sorted(chunks, key=lambda chunk: (chunk.first, -chunk.level)):
        found += [look for look in chunk.looks if not found or look.at > found[-1].at]
    return found
