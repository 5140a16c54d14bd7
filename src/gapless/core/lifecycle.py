"""The life of an instance as a pure state machine: `starting → ready ⇄ unready → draining → stopped`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gapless.core.errors import InvalidTransition
from gapless.core.phase import Phase

if TYPE_CHECKING:
    from gapless.core.model import Instance

MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset({Phase.READY, Phase.DRAINING, Phase.STOPPED}),
    Phase.READY: frozenset({Phase.UNREADY, Phase.DRAINING, Phase.STOPPED}),
    Phase.UNREADY: frozenset({Phase.READY, Phase.DRAINING, Phase.STOPPED}),
    Phase.DRAINING: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}

PROBES_TO_UNREADY = 3
"""Failed readiness probes in a row before a ready instance gets no new requests: one may be a hiccup of the prober."""


def move(instance: Instance, to: Phase, now_at: float, detail: str = "") -> Instance:
    """The instance in its next phase. Staying where it is changes nothing. Raises InvalidTransition."""
    if to is instance.phase:
        return instance
    if to not in MOVES[instance.phase]:
        raise InvalidTransition(f"instance {instance.id} cannot go from {instance.phase} to {to}")
    return replace(
        instance,
        phase=to,
        since_at=now_at,
        detail=detail,
        failures=0,
        was_ready=instance.was_ready or to is Phase.READY,
    )


def probed(instance: Instance, ok: bool, now_at: float, detail: str = "") -> Instance:
    """The instance after a readiness probe. The first success makes it ready; the third failure in a row unready."""
    if instance.phase in (Phase.DRAINING, Phase.STOPPED):
        return instance
    if ok:
        ready = move(instance, Phase.READY, now_at)
        return replace(ready, failures=0) if ready.failures else ready
    if instance.phase is Phase.READY and instance.failures + 1 >= PROBES_TO_UNREADY:
        return replace(move(instance, Phase.UNREADY, now_at, detail), failures=instance.failures + 1)
    return replace(instance, failures=instance.failures + 1, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainLimits:
    """Seconds that each stage of a drain may take, in order. Their sum never exceeds the whole limit."""

    announce_s: float
    """Unready is said, requests are still accepted: callers and gateways learn of it."""
    finish_s: float
    """Nothing new is accepted; requests and background tasks end."""
    close_s: float
    """Resources are closed."""


ANNOUNCE_S = 0.3
"""Long enough for a probe or a pushed update to arrive, short enough not to be felt on Ctrl-C."""
CLOSE_SHARE = 0.2
"""The part of the limit that is kept for closing resources: an app that never ends must not cost them their close."""


def drain_limits(total_s: float, announce_s: float = ANNOUNCE_S) -> DrainLimits:
    """Divide a drain's whole limit among its stages."""
    total_s = max(total_s, 0.0)
    announce = min(announce_s, total_s / 4)
    close = (total_s - announce) * CLOSE_SHARE
    return DrainLimits(announce_s=announce, finish_s=total_s - announce - close, close_s=close)
