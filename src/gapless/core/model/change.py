"""One recorded act, what it changed, and how it is undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value in the records before and after; None: it was not there. Secrets are masked."""

    where: str
    """Its record and its place there: `services/orders instances`."""
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """What would take a change back. `act`: `rollout` (it began the change's rollout), `steer` (by `verb`), `service`
    or `records` (put `before` back where `after` still stands), `share` (of the users, in a paused rollout, likewise),
    `config` (go back to the revision `before_number`)."""

    act: str
    verb: str = ""
    before_number: int = 0
    after_number: int = 0
    before: Mapping[str, str] = field(default_factory=dict)
    """JSON, by the record's key, a blank, and the field; by the key alone: the whole record, "" where none was."""
    after: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One recorded act: who, what, why, ticket; `numbers` are those behind an automatic decision."""

    number: int
    at: float
    who: str
    what: str
    service: str = ""
    why: str = ""
    ticket: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    rollout: int = 0
    """The number of the service's rollout that it belongs to; 0: none."""
    diff: tuple[Difference, ...] = ()
    undo: Undo | None = None
    """None: it cannot be taken back by itself."""
    undoes: int = 0
    """The number of the change that it took back; 0: none."""
