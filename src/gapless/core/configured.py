"""The configuration of a service as the store keeps it, and as instances hear of it: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gapless.core.model import BUCKETS, Evidence, RolloutPolicy

REMEMBERED = 100
"""Abandoned revisions: as many as are kept at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRevision:
    """What the store says at one revision of a service's configuration; it never changes. `number` counts from 1."""

    service: str
    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    """Where a part was written, by its dotted path: `orders.yaml:3`."""
    label: str = ""
    """What it is called elsewhere: the commit that it was imported from."""
    what: str = ""
    """What is different from the one before, for people."""
    at: float = 0.0
    who: str = ""
    why: str = ""
    ticket: str = ""


class StageState(StrEnum):
    SHARE = "share"
    """Some instances have it."""
    ALL = "all"
    """All instances have it, and are still watched."""
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"

    @property
    def ended(self) -> bool:
        return self in (StageState.PROMOTED, StageState.ROLLED_BACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigStage:
    """A revision that some instances have first. `weight`: their share in buckets of 10,000."""

    service: str
    number: int
    """The revision that is tried."""
    before: int
    """The one to go back to; 0: none."""
    weight: int
    policy: RolloutPolicy = field(default_factory=RolloutPolicy)
    """Of the moment when it began: hold, samples, alpha, patience."""
    members: tuple[str, ...] = ()
    """The instances that have it, sorted."""
    state: StageState = StageState.SHARE
    started_at: float = 0.0
    since_at: float = 0.0
    """When the present state began."""
    applied_at: float = 0.0
    """When all that should have it were first seen to have taken it; 0 = not yet."""
    ended_at: float = 0.0
    reason: str = ""
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def share(self) -> int:
        """The weight of the present state."""
        return BUCKETS if self.state is StageState.ALL else self.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the configuration of a service stands. `current`: the revision in force, 0 for none; `newest`: the last
    number that was given."""

    service: str
    current: int = 0
    newest: int = 0
    stage: ConfigStage | None = None
    """The one under way, or the last one."""
    abandoned: tuple[int, ...] = ()
    """Revisions that were tried and taken back, the last of them: nobody goes back to these unasked."""

    @property
    def staging(self) -> ConfigStage | None:
        """The one under way."""
        return self.stage if self.stage and not self.stage.state.ended else None

    def moved(self, stage: ConfigStage) -> Config:
        """With the stage as it is now, and what follows from its end."""
        match stage.state:
            case StageState.PROMOTED:
                return replace(self, stage=stage, current=stage.number)
            case StageState.ROLLED_BACK:
                return replace(self, stage=stage, abandoned=(*self.abandoned, stage.number)[-REMEMBERED:])
            case _:
                return replace(self, stage=stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDocument:
    """All that the instances of a service need to know; each finds its own revision in it."""

    service: str
    current: ConfigRevision | None = None
    staged: ConfigRevision | None = None
    members: tuple[str, ...] = ()
    everyone: bool = False
    """The staged revision is for all, also for instances that start meanwhile."""

    def for_instance(self, instance: str) -> ConfigRevision | None:
        """What an instance shall obey."""
        return self.staged if self.staged and (self.everyone or instance in self.members) else self.current


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigAsk:
    """A question to the instances: would they take this revision? Without one: what is in force?"""

    id: int
    revision: ConfigRevision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMessage:
    """A line of the stream to an instance: one of both."""

    document: ConfigDocument | None = None
    ask: ConfigAsk | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReply:
    """What a worker of an instance says: an answer to a question (`ask`), or, without one, what it obeys (`number`)."""

    instance: str
    worker: str
    ask: int = 0
    number: int = 0
    ok: bool = True
    silent: bool = False
    """It did not answer: what nobody said is the control plane's word."""
    what: str = ""
    """Why not, line by line."""
    changes: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    """What takes effect with a restart only."""
    failures: tuple[str, ...] = ()
    shown: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Each setting in force: `value` and `from`. Secrets are not shown."""
