"""What both releases of a rollout answered, from all who remember it.

The gateway's log is the finest and only of the last quarter of an hour, the looks of the analysis are kept with the
rollout, and the record of metrics holds a day. So a chart outlives the control plane that drew it first.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from gapless.console.bake import watched_until
from gapless.console.lately import Slot
from gapless.console.sight import Sight
from gapless.control.figures import plus
from gapless.core.model import Rollout, Window
from gapless.core.model.look import Look

SLOT_S = 5.0
BEFORE_S = 60.0
"""What is shown before the rollout began: how it was. As much of the time after its end."""


async def history(sight: Sight, rollout: Rollout, looks: Sequence[Look]) -> tuple[list[Slot], list[Slot]]:
    """Of the old release and of the new one, oldest first."""
    begun_at = rollout.shifted_at or rollout.started_at
    old = await _of(sight, rollout, rollout.before, of_looks(looks, begun_at, canary=False))
    return old, await _of(sight, rollout, rollout.after, of_looks(looks, begun_at, canary=True))


async def _of(sight: Sight, rollout: Rollout, release: str, looked: Sequence[Slot]) -> list[Slot]:
    since_at = rollout.started_at - BEFORE_S
    until_at = min(watched_until(rollout, sight.at) + BEFORE_S, sight.at)
    seen = await sight.lately.slots(rollout.service, release, sight.at, slot_s=SLOT_S)
    answered = [slot for slot in seen if slot.window.requests]
    recorded = await sight.recorded.of_release(rollout.service, release, since_at, until_at, sight.at)
    # An empty slot of the gateway may be one that this control plane has not seen: it comes last.
    whole = filled(filled(filled(answered, looked), recorded), seen)
    return [slot for slot in whole if since_at <= slot.at <= until_at]


def of_looks(looks: Sequence[Look], begun_at: float, *, canary: bool) -> list[Slot]:
    """What was answered from look to look, those of the same SLOT_S together; thinned ones stand for longer."""
    slots: dict[float, Slot] = {}
    before_at = begun_at
    for look in looks:
        at = math.floor(before_at / SLOT_S) * SLOT_S
        window = Window(
            requests=look.canary_requests if canary else look.stable_requests,
            errors=look.canary_errors if canary else look.stable_errors,
        )
        known = slots.get(at)
        slots[at] = Slot(
            at=at,
            length_s=max(look.at - at, SLOT_S),
            window=plus(known.window, window) if known else window,
            told_p99_s=(look.canary_p99_s if canary else look.stable_p99_s) or None,
        )
        before_at = look.at
    return [slot for slot in slots.values() if slot.window.requests]


def filled(known: Sequence[Slot], more: Sequence[Slot]) -> list[Slot]:
    """`known`, and `more` where nothing is known. Both oldest first."""
    begins = [slot.at for slot in known]

    def is_new(slot: Slot) -> bool:
        place = bisect_right(begins, slot.at)
        after_one = place == 0 or known[place - 1].at + known[place - 1].length_s <= slot.at
        before_one = place == len(known) or slot.at + slot.length_s <= begins[place]
        return after_one and before_one

    return sorted([*known, *filter(is_new, more)], key=lambda slot: slot.at)
