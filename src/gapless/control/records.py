"""Typed records of the store: where each kind of value lives, and a mirror of them all in memory.

The control plane is the only writer. Each write names the revision that it was decided on, so that a decision on stale
records fails with Conflict instead of overwriting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from gapless.core import codec
from gapless.core.errors import Conflict
from gapless.core.model import Change, Instance, Pool, Release, Rollout, Service, Split
from gapless.core.ports import Delete, Op, Put, Store

T = TypeVar("T")

KINDS: dict[str, type] = {
    "services": Service,
    "releases": Release,
    "pools": Pool,
    "splits": Split,
    "instances": Instance,
    "rollouts": Rollout,
    "changes": Change,
}

AMEND_TRIES = 10
"""Writes of one key overlap for a millisecond at most; more Conflicts than this are a second writer."""


def key_of(value: Any) -> str:
    """Where a value lives."""
    match value:
        case Service(name=name):
            return f"services/{name}"
        case Release(service=service, version=version):
            return f"releases/{service}/{version}"
        case Pool(service=service):
            return f"pools/{service}"
        case Split(service=service):
            return f"splits/{service}"
        case Instance(service=service, id=name):
            return f"instances/{service}/{name}"
        case Rollout(service=service, number=number):
            return f"rollouts/{service}/{number:06d}"
        case Change(number=number):
            return f"changes/{number:08d}"
    raise TypeError(f"{type(value).__name__} has no place in the store")


class Records:
    """The mirror. `changed` is called after every write."""

    def __init__(self, store: Store, changed: Callable[[], None]) -> None:
        self._store = store
        self._changed = changed
        self._values: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self._revisions: dict[str, int] = {}
        self.revision = 0

    async def load(self) -> None:
        """Read all records. Raises StoreBroken with the key that does not fit."""
        for kind, model in KINDS.items():
            listing = await self._store.list(f"{kind}/")
            self.revision = max(self.revision, listing.revision)
            for entry in listing.entries:
                self._values[kind][entry.key] = codec.decode(entry.value, model)
                self._revisions[entry.key] = entry.revision

    async def write(self, *values: Any, delete: Iterable[Any] = ()) -> int:
        """Write and remove values in one transaction. Raises Conflict, StoreFull; then nothing is written."""
        puts = {key_of(value): value for value in values}
        gone = [key_of(value) for value in delete]
        ops: list[Op] = [
            Put(key=key, value=codec.encode(value), expect=self._revisions.get(key, 0)) for key, value in puts.items()
        ]
        ops += [Delete(key=key) for key in gone]
        if not ops:
            return self.revision
        revision = await self._store.transact(*ops)
        self._mirror(puts, gone, revision)
        self._changed()
        return revision

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
        for key, value in puts.items():
            self._values[_kind(key)][key] = value
            self._revisions[key] = revision
        for key in gone:
            self._values[_kind(key)].pop(key, None)
            self._revisions.pop(key, None)
        self.revision = max(self.revision, revision)

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
        return found[-1] if (found := self.rollouts(service)) else None

    def changes(self, limit: int = 100) -> list[Change]:
        """Newest first."""
        return self._below("changes/", Change)[::-1][:limit]

    def next_change(self) -> int:
        newest = max(self._values["changes"], default="changes/0")
        return int(newest.removeprefix("changes/")) + 1

    def _at(self, key: str, kind: type[T]) -> T | None:
        value = self._values[_kind(key)].get(key)
        return value if isinstance(value, kind) else None

    def _below(self, prefix: str, kind: type[T]) -> list[T]:
        found = sorted(key for key in self._values[_kind(prefix)] if key.startswith(prefix))
        return [value for key in found if isinstance(value := self._values[_kind(prefix)][key], kind)]


def _kind(key: str) -> str:
    return key.partition("/")[0]
