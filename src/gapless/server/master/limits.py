"""What the settings mean for the deciders: limits with their margins, and when a worker is worn."""

from __future__ import annotations

import os

from gapless.server.generations.generation import Limits, Recycling
from gapless.server.settings import CARRY_S, Settings

START_MARGIN_S = 1.0
LEAVE_MARGIN_S = 2.0
"""What a worker gets beyond the limit that it keeps by itself, before it is killed."""


def limits_of(settings: Settings) -> Limits:
    return Limits(
        start_s=settings.start_s + START_MARGIN_S,
        leave_s=settings.drain_s + LEAVE_MARGIN_S,
        silent_s=settings.heartbeat_s,
        bake_s=settings.bake_s,
        crashes=settings.max_crashes,
        carry_s=CARRY_S,
    )


def recycling_of(settings: Settings) -> Recycling:
    return Recycling(settings.max_requests, settings.max_age_s, settings.max_memory)


def abreast() -> int:
    """How many workers may load at once beside serving ones: all cores but one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def cpu_of(settings: Settings, slot: int) -> int:
    """The core that a slot's worker is bound to; -1: none. With more workers than cores they share them evenly."""
    if not settings.affinity:
        return -1
    cores = sorted(os.sched_getaffinity(0))
    return cores[slot % len(cores)]
