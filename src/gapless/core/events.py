"""What has happened, as frozen values. Whoever wants to know subscribes a `Hook`; nobody imports an observer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gapless.core.value import Value

if TYPE_CHECKING:
    from gapless.core.model import Change, Instance, Rollout


_log = logging.getLogger("gapless.events")


class InstanceChanged(Value):
    """An instance entered another phase."""

    instance: Instance


class RolloutChanged(Value):
    """A rollout moved, was paused or ended."""

    rollout: Rollout


class ChangeRecorded(Value):
    """Something was written into the change log."""

    change: Change


class GatewayRefused(Value):
    """The data plane refused a table; `text` is its own."""

    text: str


class GatewayStarted(Value):
    """The data plane's process was started, or started again; `adopted`: an earlier control plane had started it."""

    pid: int
    restarts: int
    adopted: bool = False


class CertificatesChanged(Value):
    """New files for the gateway's certificates were taken, or (not `ok`) refused: then the old ones serve on."""

    text: str
    ok: bool = True


class StageEnded(Value):
    """A stage of an instance's start or drain ended; `ok` is False when it ran into its limit or failed."""

    name: str
    took_s: float
    ok: bool = True
    detail: str = ""


class WorkerChanged(Value):
    """A server's worker started, became ready, was retired or died."""

    pid: int
    generation: int
    what: str
    detail: str = ""


Event = (
    InstanceChanged
    | RolloutChanged
    | ChangeRecorded
    | GatewayRefused
    | GatewayStarted
    | CertificatesChanged
    | StageEnded
    | WorkerChanged
)


@dataclass(slots=True)
class Events:
    """Passes events to hooks. A hook that raises is logged and does not keep the others from hearing."""

    hooks: list[Callable[[Event], None]] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        for hook in self.hooks:
            try:
                hook(event)
            except Exception:  # noqa: BLE001 an observer must never break what it observes
                _log.exception("hook %r failed on %r", hook, event)
