"""The copy of keys, locks and sessions in memory, and the indexes of everything that can be watched.

An index never goes back, though what it came from may be gone: the newest deletions are remembered one by one, older
ones as a floor below which no index of an absent key or a prefix lies. So it is after a restart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import replace

import msgspec

from gapless.core.codec import decode
from gapless.core.ports import Entry, Listing, Update
from gapless.discovery.kv.rows import (
    LOCK,
    PREFIX,
    SESSION,
    VALUE,
    Row,
    Session,
    StoredLock,
    StoredValue,
    name_in,
)
from gapless.discovery.topics import Topics

DELETIONS = 10_000
"""Remembered one by one; a watch of a prefix that is older than all of them is woken once for nothing."""
PREFIXES = 4096
"""Whose indexes are kept: as many as applications have, not as many as a client can think of."""
SESSIONS = "sessions"
"""Topic: all sessions."""


class Prefixes:
    """The index of each prefix that was lately asked for, kept right by every write, so that a thousand who wait for a
    prefix do not each look at all that lies below it."""

    def __init__(self) -> None:
        self._indexes: dict[str, int] = {}
        self._lengths: Counter[int] = Counter()

    def get(self, prefix: str) -> int:
        """0: it is not known here."""
        return self._indexes.get(prefix, 0)

    def put(self, prefix: str, index: int) -> None:
        if len(self._indexes) >= PREFIXES:
            oldest = next(iter(self._indexes))
            del self._indexes[oldest]
            self._count(len(oldest), -1)
        self._indexes[prefix] = index
        self._count(len(prefix), 1)

    def written(self, key: str, index: int) -> None:
        for length in self._lengths:
            if length <= len(key) and (prefix := key[:length]) in self._indexes:
                self._indexes[prefix] = index

    def clear(self) -> None:
        self._indexes.clear()
        self._lengths.clear()

    def _count(self, length: int, by: int) -> None:
        self._lengths[length] += by
        if not self._lengths[length]:
            del self._lengths[length]


class KeyTopics(Topics):
    """Who waits for keys, by `("key", key)`, and for prefixes, by `("prefix", prefix)`: a write looks only at lengths
    that somebody waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes = Prefixes()
        self._lengths: Counter[int] = Counter()

    def enter(self, topic: Hashable, future: object) -> None:
        super().enter(topic, future)  # type: ignore[arg-type]
        self._count(topic, 1)

    def leave(self, topic: Hashable, future: object) -> None:
        super().leave(topic, future)  # type: ignore[arg-type]
        self._count(topic, -1)

    def _count(self, topic: Hashable, by: int) -> None:
        if isinstance(topic, tuple) and topic[0] == "prefix":
            length = len(topic[1])
            self._lengths[length] += by
            if not self._lengths[length]:
                del self._lengths[length]

    def written(self, key: str, index: int) -> None:
        """The key was written or removed."""
        self.prefixes.written(key, index)
        self.wake(("key", key), index)
        for length in [length for length in self._lengths if length <= len(key)]:
            self.wake(("prefix", key[:length]), index)


class State:
    """Everything as it stands; `reset` and `apply` are a Follower's."""

    def __init__(self) -> None:
        self.topics = KeyTopics()
        self.rows: dict[str, Row] = {}
        self.locks: dict[str, tuple[StoredLock, int]] = {}
        """With revisions, also of keys that are gone."""
        self.sessions: dict[str, Session] = {}
        self.held: dict[str, set[str]] = {}
        """Keys by the session that holds them."""
        self.ended: list[Session] = []
        """Sessions that have gone and whose locks nobody has looked at yet."""
        self._order: list[str] = []
        self._gone: dict[str, int] = {}
        self._gone_order: list[str] = []
        self._floor = 1

    # Reads.

    def get(self, key: str) -> Row | None:
        return self.rows.get(key)

    def below(self, prefix: str) -> Iterator[Row]:
        """By key."""
        for key in _from(self._order, prefix):
            yield self.rows[key]

    def keys(self, prefix: str, separator: str = "") -> list[str]:
        """Those below the prefix, each cut off behind the first separator after it, once."""
        found: dict[str, None] = {}
        for key in _from(self._order, prefix):
            at = key.find(separator, len(prefix)) if separator else -1
            found[key if at < 0 else key[: at + len(separator)]] = None
        return list(found)

    def index_of(self, key: str) -> int:
        row = self.rows.get(key)
        return row.modified if row is not None else max(self._gone.get(key, 0), self._floor)

    def index_below(self, prefix: str) -> int:
        index = self.topics.prefixes.get(prefix)
        if not index:
            newest = max((row.modified for row in self.below(prefix)), default=0)
            gone = max((self._gone[key] for key in _from(self._gone_order, prefix)), default=0)
            index = max(newest, gone, self._floor)
            self.topics.prefixes.put(prefix, index)
        return max(index, self._floor)

    def sessions_index(self) -> int:
        return max(self.topics.index(SESSIONS), self._floor)

    def session_index(self, id: str) -> int:  # noqa: A002 - the word of the API
        session = self.sessions.get(id)
        return session.created if session is not None else self.sessions_index()

    def node_index(self, node: str) -> int:
        """Of the sessions on a node."""
        return max(self.topics.index(("sessions of", node)), self._floor)

    # What a Follower tells.

    def reset(self, listing: Listing) -> None:
        """All of it; everybody is woken, as nobody knows what has happened meanwhile."""
        before = set(self.rows)
        self.topics.prefixes.clear()
        self.rows, self.locks, self.sessions, self.held = {}, {}, {}, {}
        self._order = []
        self._gone, self._gone_order, self._floor = {}, [], max(listing.revision, 1)
        for entry in listing.entries:
            self._set(entry.key, entry.value, entry)
        for key in before | set(self.rows):
            self.topics.written(key, self._floor)
        self.topics.move(SESSIONS, self._floor)

    def apply(self, group: tuple[Update, ...]) -> None:
        for update in group:
            if update.value is None:
                self._remove(update.key, update.revision)
            else:
                created = self._created(update)
                entry = Entry(key=update.key, value=update.value, revision=update.revision, created=created)
                self._set(update.key, update.value, entry)

    def _created(self, update: Update) -> int:
        known = self.rows.get(name_in(update.key, VALUE)) if update.key.startswith(PREFIX + VALUE) else None
        return known.created if known is not None else update.revision

    def _set(self, stored: str, data: bytes, entry: Entry) -> None:
        if stored.startswith(PREFIX + VALUE):
            self._set_value(name_in(stored, VALUE), decode(data, StoredValue), entry)
        elif stored.startswith(PREFIX + LOCK):
            self._set_lock(name_in(stored, LOCK), decode(data, StoredLock), entry.revision)
        elif stored.startswith(PREFIX + SESSION):
            session = msgspec.structs.replace(decode(data, Session), created=entry.created)
            self.sessions[session.id] = session
            self._moved(session, entry.revision)

    def _set_value(self, key: str, value: StoredValue, entry: Entry) -> None:
        if key not in self.rows:
            insort(self._order, key)
            if self._gone.pop(key, 0):
                del self._gone_order[bisect_left(self._gone_order, key)]
        lock, lock_at = self.locks.get(key, (StoredLock(), 0))
        self.rows[key] = Row(
            key=key,
            value=value.value,
            flags=value.flags,
            created=entry.created,
            value_at=entry.revision,
            session=lock.session,
            lock_index=lock.count,
            lock_at=lock_at,
            behavior=lock.behavior,
        )
        self.topics.written(key, entry.revision)

    def _set_lock(self, key: str, lock: StoredLock, revision: int) -> None:
        self._unhold(key)
        self.locks[key] = lock, revision
        if lock.session:
            self.held.setdefault(lock.session, set()).add(key)
        self._relock(key, lock, revision)

    def _relock(self, key: str, lock: StoredLock, revision: int) -> None:
        row = self.rows.get(key)
        if row is not None:
            self.rows[key] = replace(
                row, session=lock.session, lock_index=lock.count, lock_at=revision, behavior=lock.behavior
            )
            self.topics.written(key, revision)

    def _unhold(self, key: str) -> None:
        lock, _ = self.locks.get(key, (StoredLock(), 0))
        keys = self.held.get(lock.session)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self.held[lock.session]

    def _remove(self, stored: str, revision: int) -> None:
        if stored.startswith(PREFIX + VALUE):
            self._remove_value(name_in(stored, VALUE), revision)
        elif stored.startswith(PREFIX + LOCK):
            key = name_in(stored, LOCK)
            self._unhold(key)
            if self.locks.pop(key, None) is not None:
                self._relock(key, StoredLock(), 0)
        elif stored.startswith(PREFIX + SESSION):
            session = self.sessions.pop(name_in(stored, SESSION), None)
            if session is not None:
                self.ended.append(session)
                self._moved(session, revision)

    def _remove_value(self, key: str, revision: int) -> None:
        if self.rows.pop(key, None) is None:
            return
        del self._order[bisect_left(self._order, key)]
        self._gone[key] = revision
        insort(self._gone_order, key)
        if len(self._gone) > DELETIONS:
            oldest = next(iter(self._gone))
            self._floor = max(self._floor, self._gone.pop(oldest))
            del self._gone_order[bisect_left(self._gone_order, oldest)]
        self.topics.written(key, revision)

    def _moved(self, session: Session, revision: int) -> None:
        self.topics.move(SESSIONS, revision)
        self.topics.move(("sessions of", session.node), revision)
        self.topics.wake(("session", session.id), revision)


def _from(order: list[str], prefix: str) -> Iterator[str]:
    for at in range(bisect_left(order, prefix), len(order)):
        if not order[at].startswith(prefix):
            return
        yield order[at]
