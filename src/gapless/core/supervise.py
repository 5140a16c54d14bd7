"""Supervision as a pure decision: (wanted pools, instances, now) → what to do next.

Nothing is remembered between two calls: crash counts and back-off are derived from the records of ended instances, so a
control plane that was killed decides after its restart as it would have before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gapless.core.model import Instance, Phase

BACKOFF_FIRST_S = 0.1
BACKOFF_LIMIT_S = 30.0
STABLE_AFTER_S = 10.0
"""An instance that lived so long did not crash at its start: it is replaced at once, and the back-off begins anew."""
UNREADY_LIMIT_S = 10.0
"""An instance that has been unready for so long is replaced: it gets no requests anyway."""
START_MARGIN_S = 2.0
"""Beyond the start's limit: an instance that keeps the limit itself says why it did not become ready, we can only say
that it did not."""
KEEP_ENDED_S = 600.0
"""How long the record of an ended instance is kept for `gapless status`."""
KEEP_ENDED = 5
"""Ended instances kept for each release, so that a crash loop does not fill the store."""


@dataclass(frozen=True, slots=True)
class Start:
    """Make one more instance of a release."""

    release: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Take an instance out of every table; it is stopped once they have all been obeyed."""

    instance: str
    why: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End a drained instance."""

    instance: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the record of an ended instance."""

    instance: str


Action = Start | Drain | Stop | Forget


def supervise(
    wanted: Mapping[str, int],
    instances: Sequence[Instance],
    now_at: float,
    *,
    start_s: float,
    unrouted: Collection[str],
) -> list[Action]:
    """What to do for one service.

    `wanted`: how many instances of each release; `unrouted`: ids that no gateway or caller sends to any more.
    """
    actions: list[Action] = [Stop(i.id) for i in instances if i.phase is Phase.DRAINING and i.id in unrouted]
    hopeless = {i.id: why for i in instances if (why := why_hopeless(i, now_at, start_s))}
    actions += [Drain(name, why, failed=True) for name, why in hopeless.items()]
    for release in sorted(wanted.keys() | {i.release for i in instances}):
        mine = [i for i in instances if i.release == release]
        live = [i for i in mine if i.phase in _LIVE and i.id not in hopeless]
        actions += _fit(release, wanted.get(release, 0), live, mine, now_at)
        actions += [Forget(i.id) for i in _forgettable(mine, now_at)]
    return actions


def why_hopeless(instance: Instance, now_at: float, start_s: float) -> str:
    """Why an instance is given up, or nothing."""
    for_s = now_at - instance.since_at
    if instance.phase is Phase.STARTING and for_s > start_s + START_MARGIN_S:
        last = f"; its last answer: {instance.detail}" if instance.detail else ""
        return f"not ready within {start_s:g} s{last}"
    if instance.phase is Phase.UNREADY and for_s > UNREADY_LIMIT_S:
        return f"unready for {UNREADY_LIMIT_S:g} s: {instance.detail}"
    return ""


def crashes(ended: Iterable[Instance], now_at: float) -> tuple[int, float]:
    """(failures in a row at or near the start, moment of the last one)."""
    count, last_at = 0, 0.0
    for instance in sorted(ended, key=lambda i: i.since_at):
        if not instance.failed:
            continue
        short = instance.since_at - instance.created_at < STABLE_AFTER_S or not instance.was_ready
        count, last_at = (count + 1 if short else 0), instance.since_at
    return (count, last_at) if now_at - last_at < KEEP_ENDED_S else (0, 0.0)


def backoff_s(failures: int) -> float:
    """Seconds between the n-th failure in a row and the next start: none, then 0.1 s doubling up to 30 s."""
    return 0.0 if failures < 1 else min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))


_LIVE = (Phase.STARTING, Phase.READY, Phase.UNREADY)
_LEAST_USEFUL_FIRST = {Phase.STARTING: 0, Phase.UNREADY: 1, Phase.READY: 2}


def _fit(release: str, size: int, live: list[Instance], mine: list[Instance], now_at: float) -> list[Action]:
    if len(live) > size:
        spare = sorted(live, key=lambda i: (_LEAST_USEFUL_FIRST[i.phase], -i.created_at, i.id))
        return [Drain(i.id, "no longer wanted") for i in spare[: len(live) - size]]
    failures, last_at = crashes((i for i in mine if i.phase is Phase.STOPPED), now_at)
    if now_at < last_at + backoff_s(failures):
        return []
    return [Start(release)] * (size - len(live))


def _forgettable(mine: list[Instance], now_at: float) -> list[Instance]:
    ended = sorted((i for i in mine if i.phase is Phase.STOPPED), key=lambda i: -i.since_at)
    return [i for place, i in enumerate(ended) if place >= KEEP_ENDED or now_at - i.since_at > KEEP_ENDED_S]
