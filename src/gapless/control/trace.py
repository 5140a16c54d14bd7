"""What a transaction changes, for the change log: the differences between the records before and after, and what would
take them back. Pure. Every write of records passes here (`Records.write`), so that no verb can forget it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from gapless.core import codec
from gapless.core.configured import Config
from gapless.core.model import Change, Difference, Rollout, RolloutState, Service, Undo

DIFFERENCES_KEPT = 40
SHOWN = 160
"""Letters of a value."""
MASK = "•••"
UNTOLD = ("instances", "changes", "notices", "channels", "looks", "config-revisions")
"""Kinds of records that come and go by themselves, or are told by another one of the same transaction."""
UNTOLD_FIELDS = frozenset({"evidence", "until_at", "policy", "since_at", "applied_at", "log"})
"""Of rollouts: what moves at each look, or stands in the numbers."""
RESTORED_AS_THEY_WERE = ("splits", "silences", "forced", "overrides", "maintenance", "freezes", "windows")
"""Kinds of records that do nothing but say what is wanted: putting them back is all that there is to do."""

_SECRET = re.compile(r"secret|passw|token|credential|private|api_?key|dsn|auth", re.IGNORECASE)
_USERINFO = re.compile(r"://[^/@\s]+@")

Records = Mapping[str, Any]
"""By key."""


def traced(change: Change, before: Records, after: Records, gone: frozenset[str]) -> Change:
    """The change with what it does. `before`: the records as they are, of every key in `after` (which will be written)
    and `gone` (which will not be there any more)."""
    after = {key: value for key, value in after.items() if not isinstance(value, Change)}
    rollout = next((value.number for value in after.values() if isinstance(value, Rollout)), 0)
    return replace(
        change,
        rollout=change.rollout or rollout,
        diff=change.diff or tuple(_differences(before, after, gone)),
        undo=change.undo or _undo(before, after, gone),
    )


def _differences(before: Records, after: Records, gone: frozenset[str]) -> list[Difference]:
    found: list[Difference] = []
    for key in sorted({*after, *gone}):
        if key.partition("/")[0] not in UNTOLD:
            found += _of_one(key, before.get(key), after.get(key))
    if len(found) > DIFFERENCES_KEPT:
        more = len(found) - DIFFERENCES_KEPT
        found = [*found[:DIFFERENCES_KEPT], Difference(where=f"and {more} more")]
    return found


def _of_one(key: str, old: Any, new: Any) -> Iterator[Difference]:
    was, now = dict(_leaves(old)), dict(_leaves(new))
    if old is None:
        now = {place: value for place, value in now.items() if value not in (None, "", "false", "0", "0.0")}
    for place in sorted({*was, *now}):
        if was.get(place) != now.get(place) and place.partition(".")[0] not in UNTOLD_FIELDS:
            where = f"{key} {place}".rstrip()
            yield Difference(where=where, before=_shown(place, was.get(place)), after=_shown(place, now.get(place)))


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Each single value with its dotted place."""
    import msgspec

    if value is None and not place:
        return
    plain = value if place else msgspec.to_builtins(value)
    if isinstance(plain, Mapping) and (plain or not place):
        for name, part in plain.items():
            yield from _leaves(part, f"{place}.{name}" if place else str(name))
    elif isinstance(plain, list) and any(isinstance(part, (Mapping, list)) for part in plain):
        for index, part in enumerate(plain):
            yield from _leaves(part, f"{place}.{index}")
    else:
        yield place, plain if isinstance(plain, str) else codec.encode(plain).decode()


def _shown(place: str, value: str | None) -> str | None:
    """Two different secrets look alike: that something changed is told, and not what."""
    if value is None:
        return None
    if _SECRET.search(place.rpartition(".")[2]):
        return MASK
    value = _USERINFO.sub(f"://{MASK}@", value)
    return value if len(value) <= SHOWN else value[:SHOWN] + "…"


def _undo(before: Records, after: Records, gone: frozenset[str]) -> Undo | None:
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Rollout):
            return _of_rollout(old, value)
        if isinstance(value, Service):
            return _of_service(key, old, value)
        if isinstance(value, Config):
            return _of_config(old, value)
    return _of_records(before, after, gone)


def _of_rollout(old: Any, new: Rollout) -> Undo | None:
    if old is None:
        return Undo(act="rollout")
    if isinstance(old, Rollout) and old.paused and new.paused and old.by_hand != new.by_hand:
        return Undo(act="share", before_number=old.by_hand, after_number=new.by_hand)
    if isinstance(old, Rollout) and old.paused != new.paused and not new.state.ended:
        return Undo(act="steer", verb="pause" if old.paused else "resume") if _moves(old) and _moves(new) else None
    by_hand = isinstance(old, Rollout) and not old.winner and new.winner == new.after and _moves(new)
    return Undo(act="rollout") if by_hand else None


def _moves(rollout: Rollout) -> bool:
    return rollout.state in (RolloutState.STARTING, RolloutState.SHIFTING)


def _of_service(key: str, old: Any, new: Service) -> Undo | None:
    """The fields that changed, so that what others change later may stay."""
    import msgspec

    if not isinstance(old, Service):
        return None
    was, now = msgspec.to_builtins(old), msgspec.to_builtins(new)
    changed = [name for name in now if was.get(name) != now[name]]
    return Undo(
        act="service",
        before={f"{key} {name}": codec.encode(was[name]).decode() for name in changed},
        after={f"{key} {name}": codec.encode(now[name]).decode() for name in changed},
    )


def _of_config(old: Any, new: Config) -> Undo | None:
    current = old.current if isinstance(old, Config) else 0
    newest = old.newest if isinstance(old, Config) else 0
    if new.newest == newest:
        return None  # a stage that ended: it belongs to the change that began it
    return Undo(act="config", before_number=current, after_number=new.newest)


def _of_records(before: Records, after: Records, gone: frozenset[str]) -> Undo | None:
    keys = {key for key in (*after, *gone) if key in gone or before.get(key) != after[key]}
    if not keys or any(key.partition("/")[0] not in RESTORED_AS_THEY_WERE for key in keys):
        return None
    return Undo(
        act="records",
        before={key: codec.encode(before[key]).decode() if key in before else "" for key in keys},
        after={key: codec.encode(after[key]).decode() if key in after else "" for key in keys},
    )
