"""The change log as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gapless.control.records import Records
from gapless.control.undoing import undone_by
from gapless.core.model import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which changes: "" and 0 mean all. `what` is a part of what was done, without regard to case."""

    service: str = ""
    who: str = ""
    what: str = ""
    since_at: float = 0.0
    limit: int = 50


def chosen(changes: Iterable[Change], wanted: Wanted) -> list[Change]:
    """Those of the changes, in their order, at most as many as wanted."""
    return list(islice((change for change in changes if _is_wanted(change, wanted)), wanted.limit))


def _is_wanted(change: Change, wanted: Wanted) -> bool:
    return (
        wanted.service in ("", change.service)
        and wanted.who in ("", change.who)
        and wanted.what.casefold() in change.what.casefold()
        and change.at >= wanted.since_at
    )


def change_status(records: Records, change: Change) -> dict[str, Any]:
    """A change as plain data. What would take it back stays with us: it has secrets in it."""
    by = undone_by(records.undoings(), change.number)
    return {
        "number": change.number,
        "at": change.at,
        "who": change.who,
        "what": change.what,
        "service": change.service,
        "why": change.why,
        "ticket": change.ticket,
        "rollout": change.rollout,
        "numbers": dict(change.numbers),
        "diff": [{"where": each.where, "before": each.before, "after": each.after} for each in change.diff],
        "undoable": change.undo is not None and by is None,
        "undoes": change.undoes,
        "undone_by": by.number if by else 0,
    }
