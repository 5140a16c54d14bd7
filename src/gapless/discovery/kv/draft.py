"""What a request to the keys comes to: a draft of changes on top of the copy in memory, and the store's operations that
make it true if nothing it relied on has changed meanwhile. Pure; it sees its own changes, as a transaction must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gapless.core.codec import encode
from gapless.core.ports import Check, Delete, Op, Put
from gapless.discovery.kv.rows import (
    DELETE,
    Row,
    Session,
    StoredLock,
    StoredValue,
    lock_key,
    session_key,
    value_key,
)
from gapless.discovery.kv.state import State


@dataclass(slots=True)
class _Touched:
    """A key that the draft has looked at or changed."""

    before: Row | None
    after: Row | None
    strict: bool = False
    """What was there decided something, so that it must still be there."""


class InvalidSession(Exception):
    """There is no such session."""


class Draft:
    """Verbs return whether they were done, as Consul's do."""

    def __init__(self, state: State, delayed: Callable[[str], bool] = lambda _: False) -> None:
        """`delayed`: whether nobody may lock that key yet."""
        self._state = state
        self._delayed = delayed
        self._touched: dict[str, _Touched] = {}
        self._sessions: dict[str, Session] = {}
        self._ended: dict[str, Session] = {}

    # Reads.

    def get(self, key: str) -> Row | None:
        """From now on the draft relies on it."""
        touched = self._touch(key)
        touched.strict = True
        return touched.after

    def peek(self, key: str) -> Row | None:
        """Without relying on it."""
        return self._touch(key).after

    def below(self, prefix: str) -> Iterator[Row]:
        """By key. A key that somebody else adds meanwhile is as if it was added afterwards."""
        known = {row.key for row in self._state.below(prefix)}
        ours = {key for key, touched in self._touched.items() if key.startswith(prefix) and touched.after}
        for key in sorted(known | ours):
            if (row := self._touch(key).after) is not None:
                yield row

    # Writes.

    def set(self, key: str, value: bytes, flags: int) -> bool:
        touched = self._touch(key)
        self._write(touched, key, value, flags)
        return True

    def set_if(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """`index` 0: only if it is not there; else only if it was last modified then."""
        row = self.get(key)
        if index != (row.modified if row is not None else 0):
            return False
        return self.set(key, value, flags)

    def lock(self, key: str, value: bytes, flags: int, session: str) -> bool:
        """Raises InvalidSession."""
        holder = self.session(session)
        row = self.get(key)
        if row is not None and row.session:
            return row.session == session and self.set(key, value, flags)
        if self._delayed(key):
            return False
        touched = self._write(self._touch(key), key, value, flags)
        assert touched.after is not None
        touched.after = replace(
            touched.after, session=session, lock_index=touched.after.lock_index + 1, behavior=holder.behavior, lock_at=0
        )
        return True

    def unlock(self, key: str, value: bytes, flags: int, session: str) -> bool:
        row = self.get(key)
        if row is None or not session or row.session != session:
            return False
        touched = self._write(self._touch(key), key, value, flags)
        assert touched.after is not None
        touched.after = replace(touched.after, session="", lock_at=0)
        return True

    def release(self, key: str, session: str) -> bool:
        """The lock alone, because its session has ended; or, if that was its behavior, the key with it."""
        row = self.get(key)
        if row is None or row.session != session:
            return False
        self._touch(key).after = None if row.behavior == DELETE else replace(row, session="", lock_at=0)
        return True

    def delete(self, key: str) -> bool:
        self._touch(key).after = None
        return True

    def delete_if(self, key: str, index: int) -> bool:
        """An absent key is deleted already; else only if it was last modified at `index`."""
        row = self.get(key)
        if row is not None and row.modified != index:
            return False
        return self.delete(key)

    def delete_below(self, prefix: str) -> bool:
        for row in list(self.below(prefix)):
            self.delete(row.key)
        return True

    def session(self, id: str) -> Session:  # noqa: A002 - the word of the API
        """It must be there still when the draft becomes true. Raises InvalidSession."""
        session = self._state.sessions.get(id)
        if session is None:
            raise InvalidSession(id)
        self._sessions[id] = session
        return session

    def end(self, id: str) -> bool:  # noqa: A002 - the word of the API
        """The session, and what it holds. False: it has ended already."""
        session = self._state.sessions.get(id)
        if session is not None:
            self._ended[id] = session
        for key in sorted(self._state.held.get(id, ())):
            self.release(key, id)
        return session is not None

    # What it comes to.

    def ops(self) -> tuple[Op, ...]:
        """None if there is nothing to change and nothing to make sure of."""
        checks = [Check(key=session_key(one.id), expect=one.created) for one in self._sessions.values()]
        ends = [Delete(key=session_key(one.id), expect=one.created) for one in self._ended.values()]
        return (*checks, *ends, *(op for key, touched in self._touched.items() for op in _ops(key, touched)))

    def _touch(self, key: str) -> _Touched:
        touched = self._touched.get(key)
        if touched is None:
            row = self._state.get(key)
            touched = self._touched[key] = _Touched(row, row)
        return touched

    def _write(self, touched: _Touched, key: str, value: bytes, flags: int) -> _Touched:
        """Writing what is there already changes nothing and wakes nobody, provided that it is truly there."""
        row = touched.after
        if row is None:
            touched.after = Row(key=key, value=value, flags=flags)
        elif row.value == value and row.flags == flags:
            touched.strict = True
        else:
            touched.after = replace(row, value=value, flags=flags, value_at=0)
        return touched


def _ops(key: str, touched: _Touched) -> Iterator[Op]:
    before, after, strict = touched.before, touched.after, touched.strict
    value_at = before.value_at if before is not None else 0
    lock_at = before.lock_at if before is not None else 0
    expect = value_at if strict else None
    if after is None:
        yield from _gone(key, before)
    elif before is None or after.value_at == 0:
        yield Put(key=value_key(key), value=encode(StoredValue(after.value, after.flags)), expect=expect)
    elif strict:
        yield Check(key=value_key(key), expect=value_at)
    if after is not None and after.lock_at == 0 and (after.lock_index or lock_at):
        stored = StoredLock(after.session, after.lock_index, after.behavior)
        yield Put(key=lock_key(key), value=encode(stored), expect=lock_at)
    elif strict and after is not None:
        yield Check(key=lock_key(key), expect=lock_at)


def _gone(key: str, before: Row | None) -> Iterator[Op]:
    """Never an operation that may turn out to change nothing: its revision would be somebody else's, and waiting for
    that to show in our copy would have no end."""
    if before is None:
        yield Check(key=value_key(key), expect=0)
    else:
        yield Delete(key=value_key(key), expect=before.value_at)
        yield Delete(key=lock_key(key))
