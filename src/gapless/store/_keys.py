"""The current keys, and the pure application of operations to them: what every backend of our own shares.

Nothing here waits, writes a file or knows the time. A `Draft` decides a batch of jobs one after another on top of the
committed `Keys`; only when the storage has taken the batch are its commits applied to the keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gapless.core.errors import Conflict, LeaseLost
from gapless.core.ports import Check, Delete, Entry, Op, Put, Update
from gapless.store._sorted import SortedKeys


@dataclass(frozen=True, slots=True)
class Transact:
    """Job: all of the operations or none."""

    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """Job: a new lease."""

    lease: str
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Revoke:
    """Job: end a lease and remove its keys."""

    lease: str


Job = Transact | Grant | Revoke


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What comes of a job: `changes` (None = removed) in order of the operations, all at `revision`. Without changes,
    `revision` is the one before it."""

    revision: int
    changes: Mapping[str, Entry | None] = field(default_factory=dict)
    granted: Grant | None = None
    ended: str = ""
    """The lease that this commit ends."""

    @property
    def empty(self) -> bool:
        """Nothing is to be stored."""
        return not (self.changes or self.granted or self.ended)

    @property
    def updates(self) -> tuple[Update, ...]:
        return tuple(
            Update(key=key, value=entry.value if entry else None, revision=self.revision)
            for key, entry in self.changes.items()
        )


def validate(ops: Iterable[Op]) -> tuple[Op, ...]:
    """The operations, if every backend can take them. Raises ValueError, TypeError: mistakes in the caller's code."""
    ops = tuple(ops)
    written: set[str] = set()
    for op in ops:
        validate_key(op.key)
        if isinstance(op, Check):
            continue
        if op.key in written:
            raise ValueError(f"a transaction writes {op.key!r} twice: keep the last of the two")
        if isinstance(op, Put) and not isinstance(op.value, bytes):
            raise TypeError(f"the value of {op.key!r} is {type(op.value).__name__}, not bytes: encode it (core.codec)")
        written.add(op.key)
    return ops


def validate_key(key: str) -> None:
    """Raises ValueError for a key that not every backend can hold."""
    if not key or "\0" in key or not (key.isascii() or _is_text(key)):
        raise ValueError(f"{key!r} is no key: use a non-empty text without NUL and lone surrogates")


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def validate_ttl(ttl_s: float) -> None:
    """Raises ValueError for a lease that would lapse at once or never."""
    if not (ttl_s > 0 and math.isfinite(ttl_s)):
        raise ValueError(f"a lease of {ttl_s} s makes no sense: give it some seconds")


class Keys:
    """The keys as they stand at `revision`, and the leases that some of them hang on (lease → seconds to live)."""

    def __init__(
        self, entries: Iterable[Entry] = (), leases: Mapping[str, float] | None = None, revision: int = 0
    ) -> None:
        self.revision = revision
        self.entries: dict[str, Entry] = {entry.key: entry for entry in entries}
        self.leases: dict[str, float] = dict(leases or {})
        self.leased: dict[str, set[str]] = {}
        self._order = SortedKeys(self.entries)
        for entry in self.entries.values():
            self._hang(entry)

    def below(self, prefix: str) -> Iterator[Entry]:
        """The entries whose keys begin with `prefix`, by key."""
        return (self.entries[key] for key in self._order.below(prefix))

    def apply(self, commit: Commit) -> None:
        """Make a commit the truth."""
        for key, entry in commit.changes.items():
            self._remove(key) if entry is None else self._set(entry)
        if commit.granted:
            self.leases[commit.granted.lease] = commit.granted.ttl_s
        if commit.ended:
            del self.leases[commit.ended]
        self.revision = commit.revision

    def _set(self, entry: Entry) -> None:
        before = self.entries.get(entry.key)
        if before is None:
            self._order.add(entry.key)
        elif before.lease != entry.lease:
            self._unhang(before)
        self.entries[entry.key] = entry
        self._hang(entry)

    def _remove(self, key: str) -> None:
        self._unhang(self.entries.pop(key))
        self._order.remove(key)

    def _hang(self, entry: Entry) -> None:
        if entry.lease:
            self.leased.setdefault(entry.lease, set()).add(entry.key)

    def _unhang(self, entry: Entry) -> None:
        keys = self.leased.get(entry.lease)
        if keys is not None:
            keys.discard(entry.key)
            if not keys:
                del self.leased[entry.lease]


class Draft:
    """The keys as they would stand after the jobs decided so far."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._changes: dict[str, Entry | None] = {}
        self._leases: dict[str, bool] = {}
        self._revision = keys.revision

    def decide(self, job: Job) -> Commit:
        """What the job comes to on top of the ones before it. Raises Conflict, LeaseLost, and then changes nothing."""
        match job:
            case Transact():
                commit = self._transact(job)
            case Grant():
                commit = Commit(revision=self._revision, granted=job)
                self._leases[job.lease] = True
            case Revoke():
                commit = self._revoke(job)
        self._changes.update(commit.changes)
        self._revision = commit.revision
        return commit

    def _transact(self, job: Transact) -> Commit:
        for op in job.ops:
            self._expect(op)
        changes: dict[str, Entry | None] = {}
        for op in job.ops:
            if isinstance(op, Put):
                changes[op.key] = self._written(op)
            elif isinstance(op, Delete) and self._find(op.key):
                changes[op.key] = None
        return Commit(revision=self._revision + bool(changes), changes=changes)

    def _revoke(self, job: Revoke) -> Commit:
        if not self._holds(job.lease):
            return Commit(revision=self._revision)
        self._leases[job.lease] = False
        gone: dict[str, Entry | None] = dict.fromkeys(sorted(self._hanging(job.lease)))
        return Commit(revision=self._revision + bool(gone), changes=gone, ended=job.lease)

    def _expect(self, op: Op) -> None:
        if op.expect is not None:
            found = self._find(op.key)
            revision = found.revision if found else 0
            if op.expect != revision:
                raise Conflict(op.key, op.expect, revision)
        if isinstance(op, Put) and op.lease and not self._holds(op.lease):
            raise LeaseLost(f"{op.key!r} cannot hang on lease {op.lease!r}: it has expired or was revoked")

    def _written(self, op: Put) -> Entry:
        found = self._find(op.key)
        revision = self._revision + 1
        created = found.created if found else revision
        return Entry(key=op.key, value=op.value, revision=revision, created=created, lease=op.lease)

    def _find(self, key: str) -> Entry | None:
        return self._changes[key] if key in self._changes else self._keys.entries.get(key)

    def _holds(self, lease: str) -> bool:
        return self._leases.get(lease, lease in self._keys.leases)

    def _hanging(self, lease: str) -> Iterator[str]:
        for key in self._keys.leased.get(lease, ()):
            if key not in self._changes:
                yield key
        for key, entry in self._changes.items():
            if entry is not None and entry.lease == lease:
                yield key
