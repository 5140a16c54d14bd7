"""What a rollout's next decision looks at, beside the answers of both releases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gapless.core.model import Instance, Phase, Pool, Rollout, RolloutState, Split
from gapless.rollout.gates import OPEN, Gating


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An instance of the new release that ended, or was given up, before it was ever ready."""

    at: float
    reason: str
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The service as it is now. `split` and `pool` are the stored ones, `applied` is what the gateway has acknowledged
    (None when that is not known): a decision compares them with what it wants, so that it can be taken again."""

    ready: Mapping[str, int] = field(default_factory=dict)
    """Ready instances by release."""
    running: Mapping[str, int] = field(default_factory=dict)
    """Instances by release that have not ended: starting, ready, unready and draining."""
    failures: tuple[Failure, ...] = ()
    """Of the new release, oldest first."""
    waiting: str = ""
    """What an instance of the new release that is not ready yet says about it."""
    unhealthy: int = 0
    """Failed health checks in a row, and crashes after they had been ready, of the new release's instances."""
    split: Split | None = None
    applied: Split | None = None
    pool: Pool | None = None
    gates: Gating = OPEN
    """What stands between the new release and its first user, and whether the mirror still permits it."""
    began_at: float = 0.0
    """When this control plane began to watch: what could not be done while there was none is not late."""


def observe(
    rollout: Rollout,
    instances: Iterable[Instance],
    *,
    split: Split | None,
    applied: Split | None,
    pool: Pool | None,
    gates: Gating = OPEN,
    began_at: float = 0.0,
) -> Observed:
    """The service's instances (ended ones included, as long as they are kept) as seen by its rollout."""
    mine = [i for i in instances if i.service == rollout.service]
    ready = Counter(i.release for i in mine if i.phase is Phase.READY)
    new = sorted((i for i in mine if i.release == rollout.after), key=lambda i: i.since_at)
    return Observed(
        ready=ready,
        running=Counter(i.release for i in mine if i.phase is not Phase.STOPPED),
        failures=tuple(_failure(i) for i in new if i.failed and not i.was_ready),
        waiting=next((i.detail for i in reversed(new) if i.phase is Phase.STARTING), ""),
        unhealthy=_unhealthy(rollout, new, compared=ready[rollout.before] > 0),
        split=split,
        applied=applied,
        pool=pool,
        gates=gates,
        began_at=began_at,
    )


def _failure(instance: Instance) -> Failure:
    reason, _, log = instance.detail.partition("\n")
    return Failure(at=instance.since_at, reason=reason, log=log)


def _unhealthy(rollout: Rollout, new: list[Instance], compared: bool) -> int:
    """While no instance of the release before is ready either, what fails may be something that both need. After the
    promotion there may be none; crashes count even so."""
    promoted = rollout.state is RolloutState.PROMOTED
    since_at = rollout.ended_at if promoted else rollout.started_at
    crashes = sum(i.failed and i.was_ready and i.since_at >= since_at for i in new)
    living = (i.failures for i in new if i.was_ready and i.phase in (Phase.READY, Phase.UNREADY))
    if not compared:
        return crashes if promoted else 0
    return crashes + max(living, default=0)
