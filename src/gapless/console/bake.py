"""The watch over a promoted release, as a last step of its rollout. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapless.console import words
from gapless.core.model import Rollout, RolloutState
from gapless.core.model.look import Look
from gapless.rollout.bake import baking


@dataclass(frozen=True, slots=True, kw_only=True)
class Bake:
    """`state`: next, now, done, undone, left out, as of the steps before it. `text`: how it stands, as a sentence."""

    state: str
    lasts_s: float
    text: str = ""
    tone: str = "accent"


def bake_of(rollout: Rollout, later: Sequence[Rollout], looks: Sequence[Look], now_at: float) -> Bake | None:
    """None where a release is not watched after its promotion. `later`: the rollouts of its service after it."""
    lasts_s = rollout.policy.bake_s
    if not lasts_s or (rollout.state.ended and rollout.state is not RolloutState.PROMOTED):
        return None
    if not rollout.state.ended:
        return Bake(state="next", lasts_s=lasts_s)
    if baking(rollout) and later:
        text = f"Rollout {later[0].number} began before the watch over this one had ended."
        return Bake(state="left out", lasts_s=lasts_s, text=text)
    if baking(rollout):
        return _under_way(rollout, looks, now_at)
    back = next((each for each in later if each.undoes == rollout.number and each.automatic), None)
    watched_s = rollout.baked_at - rollout.ended_at
    if back:
        text = f"It did harm {words.lasted(watched_s)} after its promotion, and rollout {back.number} took it back."
        return Bake(state="undone", lasts_s=lasts_s, text=text, tone="bad")
    text = f"Watched for {words.lasted(watched_s)} after its promotion: it did no harm."
    return Bake(state="done", lasts_s=lasts_s, text=text, tone="good")


def _under_way(rollout: Rollout, looks: Sequence[Look], now_at: float) -> Bake:
    lasts_s = rollout.policy.bake_s
    left_s = max(rollout.ended_at + lasts_s - now_at, 0.0)
    seen = looks[-1].reason if looks and looks[-1].at > rollout.ended_at else ""
    return Bake(
        state="now",
        lasts_s=lasts_s,
        text=f"Everybody has {rollout.after}. It is watched for {words.lasted(left_s)} more, and goes back by itself "
        f"when it does harm{': ' + seen if seen else ''}.",
    )


def watched_until(rollout: Rollout, now_at: float) -> float:
    """Until when there is something to see of it: now, its end, or that of the watch after it."""
    if not rollout.ended_at:
        return now_at
    bakes_s = rollout.policy.bake_s if baking(rollout) else 0.0
    return min(rollout.baked_at or rollout.ended_at + bakes_s, now_at)
