"""Typed records of the store: where each kind of value lives, and a mirror of them all in memory.

The control plane that leads is the only writer. Each write names the revision that it was decided on, so that a
decision on stale records fails with Conflict instead of overwriting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from gapless.control.shelf import Shelf
from gapless.control.trace import traced
from gapless.core import codec
from gapless.core.configured import Config, ConfigRevision
from gapless.core.errors import Conflict, StoreFull, StoreUnreachable
from gapless.core.model import Change, Fault, GateResult, Instance, Pool, Release, Rollout, Service, Split, Train
from gapless.core.model.alert import Action, Alert, Forced, Silence
from gapless.core.model.incident import Incident
from gapless.core.model.notice import ChannelState, Notice
from gapless.core.ports import Delete, Op, Put, Store

T = TypeVar("T")

_log = logging.getLogger("gapless.control")

KINDS: dict[str, type] = {
    "services": Service,
    "releases": Release,
    "pools": Pool,
    "splits": Split,
    "instances": Instance,
    "rollouts": Rollout,
    "changes": Change,
    "gates": GateResult,
    "trains": Train,
    "faults": Fault,
    "config": Config,
    "config-revisions": ConfigRevision,
    "alerts": Alert,
    "silences": Silence,
    "actions": Action,
    "forced": Forced,
    "incidents": Incident,
    "notices": Notice,
    "channels": ChannelState,
}

_NAMES = {kind: name for name, kind in KINDS.items()}

AMEND_TRIES = 10
"""Writes of one key overlap for a millisecond at most; more Conflicts than this are a second writer."""


_WHERE: dict[type, Callable[[Any], str]] = {
    Service: lambda service: f"services/{service.name}",
    Release: lambda release: f"releases/{release.service}/{release.version}",
    Pool: lambda pool: f"pools/{pool.service}",
    Split: lambda split: f"splits/{split.service}",
    Instance: lambda instance: f"instances/{instance.service}/{instance.id}",
    Rollout: lambda rollout: f"rollouts/{rollout.service}/{rollout.number:06d}",
    Train: lambda train: f"trains/{train.name}",
    Change: lambda change: f"changes/{change.number:08d}",
    GateResult: lambda result: f"gates/{result.service}/{result.rollout:06d}/{result.name}",
    Fault: lambda fault: f"faults/{fault.service}",
    Config: lambda config: f"config/{config.service}",
    ConfigRevision: lambda revision: f"config-revisions/{revision.service}/{revision.number:08d}",
    Alert: lambda alert: f"alerts/{alert.number:08d}",
    Silence: lambda silence: f"silences/{silence.number:06d}",
    Action: lambda action: f"actions/{action.number:08d}",
    Forced: lambda forced: f"forced/{forced.service}/{forced.guard or '*'}",
    Incident: lambda incident: f"incidents/{incident.number:06d}",
    Notice: lambda notice: f"notices/{notice.number:08d}",
    ChannelState: lambda channel: f"channels/{channel.name}",
}


def key_of(value: Any) -> str:
    """Where a value lives."""
    where = _WHERE.get(type(value))
    if where is None:
        raise TypeError(f"{type(value).__name__} has no place in the store")
    return where(value)


class Records:
    """The mirror. `changed` is called after every write."""

    def __init__(self, store: Store, changed: Callable[[], None]) -> None:
        self._store = store
        self._changed = changed
        self._values = {kind: Shelf() for kind in KINDS}
        self._revisions: dict[str, int] = {}
        self._doubtful = False
        """A write's answer was lost: the store may be ahead of the mirror."""
        self._held: dict[str, Any] = {}
        """What was seen and is only in the mirror, because the store is full; None where it is no longer there."""
        self._full = False
        self._under_way, self._idle, self._reading = 0, asyncio.Event(), asyncio.Lock()
        self._keeping = asyncio.Lock()
        self._idle.set()
        self.revision = 0

    async def load(self) -> None:
        """Read all records. Raises StoreBroken with the key that does not fit, StoreUnreachable."""
        listings = {kind: await self._store.list(f"{kind}/") for kind in KINDS}
        values = {
            kind: Shelf({entry.key: codec.decode(entry.value, KINDS[kind]) for entry in listing.entries})
            for kind, listing in listings.items()
        }
        revisions = {e.key: e.revision for listing in listings.values() for e in listing.entries}
        held = {key: value for key, value in self._held.items() if revisions.get(key) == self._revisions.get(key)}
        self._values, self._revisions, self._held = values, revisions, held
        for key, value in held.items():
            self._put(key, value)
        self.revision = max(self.revision, *(listing.revision for listing in listings.values()))
        self._doubtful = False

    async def write(self, *values: Any, delete: Iterable[Any] = ()) -> int:
        """Write and remove values in one transaction. Raises Conflict, StoreFull, NotLeader; then nothing is written.
        StoreUnreachable: nobody knows; the records are read anew before the next write, which then is a Conflict."""
        return await self._write({key_of(value): value for value in values}, [key_of(value) for value in delete])

    async def _write(self, values: dict[str, Any], gone: list[str]) -> int:
        if self._doubtful:
            await self._read_anew()
            raise Conflict
        puts = self._traced(values, gone)
        ops: list[Op] = [
            Put(key=key, value=codec.encode(value), expect=self._revisions.get(key, 0)) for key, value in puts.items()
        ]
        ops += [Delete(key=key) for key in gone]
        if not ops:
            return self.revision
        revision = await self._transact(ops, puts, gone)
        self._changed()
        return revision

    async def keep(self, *values: Any, delete: Iterable[Any] = ()) -> None:
        """`write` for what was seen, not decided: while the store is full it is held in memory, where everybody finds
        it, and is written with what is kept next. A kill until then forgets it. Raises what else `write` does."""
        news = {key_of(value): value for value in values} | dict.fromkeys(map(key_of, delete))
        async with self._keeping:
            if held := {**self._held, **news}:
                await self._keep(held)

    async def _keep(self, held: dict[str, Any]) -> None:
        try:
            await self._write(
                {key: value for key, value in held.items() if value is not None},
                [key for key, value in held.items() if value is None and key in self._revisions],
            )
        except StoreFull as error:
            if not self._full:
                _log.warning("alerts, incidents and notices are only kept in memory: %s", error)
            self._full = True
            self._hold(held)
        else:
            if self._full:
                _log.warning("alerts, incidents and notices are written to the store again")
            self._full = False
            self._hold({key: value for key, value in held.items() if value is None})

    def _hold(self, held: dict[str, Any]) -> None:
        """What was never written can be forgotten without the store."""
        for key, value in held.items():
            self._put(key, value)
            if value is None and key not in self._revisions:
                self._held.pop(key, None)
            else:
                self._held[key] = value
        self._changed()

    def _put(self, key: str, value: Any) -> None:
        """Into the mirror; None: out of it."""
        if value is None:
            self._values[_kind(key)].remove(key)
        else:
            self._values[_kind(key)].put(key, value)

    def _traced(self, puts: dict[str, Any], gone: list[str]) -> dict[str, Any]:
        """Entries of the change log with what they change; of several for one service the first one has it."""
        changes = {key: value for key, value in puts.items() if isinstance(value, Change)}
        told: set[str] = set()
        for key, change in changes.items():
            mine = {k: v for k, v in puts.items() if len(changes) == 1 or _service_of(v) == change.service}
            if change.service not in told:
                left = [k for k in gone if len(changes) == 1 or k.split("/")[1] == change.service]
                puts[key] = traced(change, self._known([*mine, *left]), mine, frozenset(left))
            told.add(change.service)
        return puts

    def _known(self, keys: Iterable[str]) -> dict[str, Any]:
        return {key: value for key in keys if (value := self._values[_kind(key)].get(key)) is not None}

    async def _transact(self, ops: list[Op], puts: dict[str, Any], gone: list[str]) -> int:
        self._under_way += 1
        self._idle.clear()
        try:
            revision = await self._store.transact(*ops)
            self._mirror(puts, gone, revision)
            return revision
        except (StoreUnreachable, asyncio.CancelledError):
            self._doubtful = True  # whoever is cancelled does not hear the answer either
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _read_anew(self) -> None:
        """Once all writes under way have their answers, so that nothing older is read over what they have written."""
        async with self._reading:
            await self._idle.wait()
            if self._doubtful:
                await self.load()
                self._changed()

    async def amend(self, value: T, change: Callable[[T], T | None]) -> T | None:
        """Change a record as it is now, whatever it was when `value` was read; again when another write was quicker.

        Returns what was written, or None when the record is gone or nothing changed. Raises Conflict
        when others keep being quicker.
        """
        for _ in range(AMEND_TRIES - 1):
            try:
                return await self._amend_once(value, change)
            except Conflict:
                continue
        return await self._amend_once(value, change)

    async def _amend_once(self, value: T, change: Callable[[T], T | None]) -> T | None:
        now = self._at(key_of(value), type(value))
        after = None if now is None else change(now)
        if after is None or after == now:
            return None
        await self.write(after)
        return after

    def _mirror(self, puts: dict[str, Any], gone: list[str], revision: int) -> None:
        for key, value in {**puts, **dict.fromkeys(gone)}.items():
            self._put(key, value)
            self._held.pop(key, None)
        self._revisions |= dict.fromkeys(puts, revision)
        for key in gone:
            self._revisions.pop(key, None)
        self.revision = max(self.revision, revision)

    def text(self, key: str) -> str:
        """A record as it is stored; empty when it is not there."""
        value = self._values[_kind(key)].get(key)
        return "" if value is None else codec.encode(value).decode()

    def under(self, key: str) -> Any:
        """The record at a key; None when there is none."""
        return self._values[_kind(key)].get(key)

    def at(self, value: T) -> T | None:
        """The record as it is now where `value` belongs."""
        return self._at(key_of(value), type(value))

    def revision_of(self, value: Any) -> int:
        """The revision at which the value's key was last written; 0 when it never was."""
        return self._revisions.get(key_of(value), 0)

    def services(self) -> list[Service]:
        return self._below("services/", Service)

    def service(self, name: str) -> Service | None:
        return self._at(f"services/{name}", Service)

    def release(self, service: str, version: str) -> Release | None:
        return self._at(f"releases/{service}/{version}", Release)

    def releases(self, service: str) -> list[Release]:
        return self._below(f"releases/{service}/", Release)

    def pool(self, service: str) -> Pool | None:
        return self._at(f"pools/{service}", Pool)

    def split(self, service: str) -> Split | None:
        return self._at(f"splits/{service}", Split)

    def instances(self, service: str = "") -> list[Instance]:
        return self._below(f"instances/{service}/" if service else "instances/", Instance)

    def rollouts(self, service: str) -> list[Rollout]:
        """Oldest first."""
        return self._below(f"rollouts/{service}/", Rollout)

    def rollout(self, service: str) -> Rollout | None:
        """The newest one."""
        newest = self._values["rollouts"].newest(f"rollouts/{service}/")
        return self._at(newest, Rollout) if newest else None

    def gate_results(self, service: str, rollout: int | None = None) -> list[GateResult]:
        """Of one rollout, or of all, oldest first."""
        below = f"gates/{service}/" if rollout is None else f"gates/{service}/{rollout:06d}/"
        return self._below(below, GateResult)

    def rollout_of(self, service: str, number: int) -> Rollout | None:
        return self._at(f"rollouts/{service}/{number:06d}", Rollout)

    def train(self, name: str) -> Train | None:
        return self._at(f"trains/{name}", Train)

    def faults(self, after_at: float = 0.0) -> list[Fault]:
        """Those that end after a moment."""
        return [fault for fault in self._below("faults/", Fault) if fault.until_at > after_at]

    def changes(self, limit: int = 100) -> list[Change]:
        """Newest first."""
        return list(islice(self.all_changes(), limit))

    def all_changes(self) -> Iterator[Change]:
        """Newest first."""
        return reversed(self._values["changes"])

    def undoings(self) -> dict[int, Change]:
        """The changes that took others back, by their numbers."""
        return {each.number: each for each in self._below("changes/", Change) if each.undoes}

    def change(self, number: int) -> Change | None:
        return self._at(f"changes/{number:08d}", Change)

    def config(self, service: str) -> Config:
        """Where its configuration stands; of one that never had any, at nothing."""
        return self._at(f"config/{service}", Config) or Config(service=service)

    def config_revision(self, service: str, number: int) -> ConfigRevision | None:
        return self._at(f"config-revisions/{service}/{number:08d}", ConfigRevision)

    def config_revisions(self, service: str) -> list[ConfigRevision]:
        """Those that are kept, oldest first."""
        return self._below(f"config-revisions/{service}/", ConfigRevision)

    def all_of(self, kind: type[T]) -> list[T]:
        """Every record of a kind, by its key: of numbered ones the oldest first."""
        return self._below(f"{_NAMES[kind]}/", kind)

    def numbered(self, kind: type[T], number: int) -> T | None:
        """The record of a kind that has this number."""
        return next((each for each in self.all_of(kind) if getattr(each, "number", 0) == number), None)

    def next_change(self) -> int:
        return self.next_number(Change)

    def next_number(self, kind: type) -> int:
        """The number of the next record of a kind whose keys are numbers."""
        newest = self._values[_NAMES[kind]].newest()
        return int(newest.rpartition("/")[2] or 0) + 1

    def _at(self, key: str, kind: type[T]) -> T | None:
        value = self._values[_kind(key)].get(key)
        return value if isinstance(value, kind) else None

    def _below(self, prefix: str, kind: type[T]) -> list[T]:
        """`kind` is what the prefix's first part leads to."""
        return list(self._values[_kind(prefix)].below(prefix))


async def persist(write: Callable[[], Awaitable[T]]) -> T:
    """Decide and write again when another write was quicker."""
    for _ in range(AMEND_TRIES - 1):
        try:
            return await write()
        except Conflict:
            continue
    return await write()


def _service_of(value: Any) -> str:
    return value.name if isinstance(value, Service) else getattr(value, "service", "")


def _kind(key: str) -> str:
    return key.partition("/")[0]
