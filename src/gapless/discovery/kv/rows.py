"""How keys, locks and sessions lie in the store, all below one prefix so that one copy shows them together.

`kv/value/<key>` is a value with its flags, `kv/lock/<key>` who holds it and how often it was taken, `kv/session/<id>` a
session. Values and locks are apart so that a plain write, which leaves the lock as it is, need not look at it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

PREFIX = "kv/"
VALUE, LOCK, SESSION = "value/", "lock/", "session/"
RELEASE, DELETE = "release", "delete"


class StoredValue(msgspec.Struct, frozen=True, omit_defaults=True):
    value: bytes = b""
    flags: int = 0


class StoredLock(msgspec.Struct, frozen=True, omit_defaults=True):
    session: str = ""
    """Empty: nobody holds it."""
    count: int = 0
    """How often it was taken: a fencing token."""
    behavior: str = RELEASE
    """Of the session, for those who find the lock without it."""


class Session(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What locks hang on. It ends when it is destroyed, its time passes, or one of its checks goes critical."""

    id: str
    node: str
    name: str = ""
    behavior: str = RELEASE
    ttl: str = ""
    """As the client wrote it; empty: for ever."""
    lock_delay_s: float = 15.0
    """So long nobody can take its locks after it ended, as its holder may not know yet."""
    node_checks: tuple[str, ...] = ()
    service_checks: tuple[str, ...] = ()
    lease: str = ""
    created: int = 0
    """The store's revision; not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A key as clients see it."""

    key: str
    value: bytes = b""
    flags: int = 0
    session: str = ""
    lock_index: int = 0
    behavior: str = field(default=RELEASE, compare=False)
    created: int = 0
    value_at: int = 0
    """The revision of its value; 0: written by the transaction that is being decided."""
    lock_at: int = 0
    """The revision of its lock; 0: it was never locked."""

    @property
    def modified(self) -> int:
        return max(self.value_at, self.lock_at)

    def told_at(self, revision: int) -> Row:
        """As it stands once the transaction that wrote it is true, at that revision."""
        written = self.value_at == 0 or (self.lock_index > 0 and self.lock_at == 0)
        return replace(self, created=self.created or revision, value_at=revision) if written else self


def value_key(key: str) -> str:
    return PREFIX + VALUE + _escaped(key)


def lock_key(key: str) -> str:
    return PREFIX + LOCK + _escaped(key)


def session_key(id: str) -> str:  # noqa: A002 - the word of the API
    return PREFIX + SESSION + _escaped(id)


def _escaped(name: str) -> str:
    """The store takes every character but NUL."""
    return name.replace("%", "%25").replace("\0", "%00") if "%" in name or "\0" in name else name


def name_in(stored: str, kind: str) -> str:
    """What was escaped, of a key of that kind."""
    name = stored[len(PREFIX) + len(kind) :]
    return name.replace("%00", "\0").replace("%25", "%") if "%" in name else name
