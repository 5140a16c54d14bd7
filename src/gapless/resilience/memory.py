"""What guards remember, as bytes that a process hands to its successor.

Buckets, windows and estimates are worth nothing but in a fresh process; there they spare it the burst, the outage and
the slow start that the one before has been through already. So nothing in here may ever hinder a start: what is not
understood is left out. Clocks of processes differ, so that every moment travels as seconds before or after the dump.

    {"gapless-guards": 1, "at": …, "parts": [[guard, place, form, facts, [key …]], …]}        (MessagePack)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from gapless.core.errors import ConfigError
from gapless.core.value import Value

VERSION = 1
MARK = "gapless-guards"
LONGEST_KEY = 256
"""Signs of a key that travels; of longer ones nobody keeps a name."""
HEADER = 5
"""The most bytes that say how long an array is."""


class Memory(Value):
    """Of one policy. `form`: what the facts mean; a layer that knows another form leaves them."""

    form: str
    facts: Mapping[str, Any] = MappingProxyType({})
    keys: Sequence[tuple[Any, ...]] = ()
    """An entry for each key, those that matter most first: what does not fit is cut off at the end."""


class Part(NamedTuple):
    """A policy's memory, and whose it is: `rate_2` of `payments`."""

    guard: str
    place: str
    memory: Memory


def portable(key: Any) -> bool:
    """Whether a key means the same in another process, and is short enough to be kept for that."""
    if isinstance(key, (str, bytes)):
        return type(key) in (str, bytes) and len(key) <= LONGEST_KEY
    if isinstance(key, tuple):
        return len(key) <= 8 and all(map(portable, key))
    return key is None or isinstance(key, float) or (isinstance(key, int) and -(1 << 63) <= key < 1 << 63)


def encode(parts: Iterable[Part], at: float, limit_bytes: int) -> bytes:
    """At most `limit_bytes`: first what each policy knows of all its calls, then keys, in turn one of each policy.
    Empty when nothing fits."""
    import msgspec

    pack = msgspec.msgpack.encode
    free = limit_bytes - len(pack({MARK: VERSION, "at": at, "parts": []})) - HEADER
    taken: list[tuple[list[Any], list[msgspec.Raw]]] = []
    waiting: list[tuple[Iterator[bytes], list[msgspec.Raw]]] = []
    for guard, place, memory in parts:
        head, keys = [guard, place, memory.form, dict(memory.facts)], list[msgspec.Raw]()
        size = len(pack([*head, keys])) + HEADER
        if size <= free:
            free -= size
            taken.append((head, keys))
            waiting.append((map(pack, memory.keys), keys))
    for entry, keys in _in_turn(waiting):
        free -= len(entry)
        if free < 0:
            break
        keys.append(msgspec.Raw(entry))
    packed = pack({MARK: VERSION, "at": at, "parts": [[*head, keys] for head, keys in taken]})
    return packed if len(packed) <= limit_bytes else b""


def _in_turn(waiting: list[tuple[Iterator[bytes], list[Any]]]) -> Iterator[tuple[bytes, list[Any]]]:
    while waiting:
        left = []
        for entries, keys in waiting:
            if (entry := next(entries, None)) is not None:
                yield entry, keys
                left.append((entries, keys))
        waiting = left


def decode(content: bytes) -> tuple[float, list[Part]]:
    """(the wall clock at the dump, what it holds). Raises ConfigError for what this version does not understand."""
    import msgspec

    try:
        found = msgspec.msgpack.decode(content, type=dict[str, Any])
        if found.get(MARK) != VERSION:
            raise ValueError(f"version {found.get(MARK)!r}, and this process reads {VERSION}")
        parts = msgspec.convert(found["parts"], list[tuple[str, str, str, dict[str, Any], list[list[Any]]]])
        at = number(found["at"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"the guards' state of the process before is not understood: {error}",
            "Nothing needs to be done: the guards begin anew.",
        ) from error
    return at, [
        Part(guard, place, Memory(form=form, facts=facts, keys=[_thawed(entry) for entry in keys if entry]))
        for guard, place, form, facts, keys in parts
    ]


def _thawed(entry: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_thawed(each) if isinstance(each, list) else each for each in entry)


def number(value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number within bounds. Raises ValueError."""
    if not isinstance(value, (int, float)) or not least <= value <= most or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number between {least} and {most}")
    return float(value)


def whole(value: Any, most: int = 1 << 53) -> int:
    """A count. Raises ValueError."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no count")
    return value


def seconds_ahead(value: Any, most_s: float) -> float:
    """How far a bucket is ahead of the clock: no further than it can ever be, 0.0 when it is not. Raises ValueError."""
    return min(max(number(value), 0.0), most_s)


class Names:
    """The last keys by their hashes. Buckets know no names, and the hash of a key is another one in each process."""

    __slots__ = ("_before", "_now")

    MOST = 4_096
    """For each of two generations."""

    def __init__(self) -> None:
        self._now: dict[int, Any] = {}
        self._before: dict[int, Any] = {}

    def note(self, key_hash: int, key: Any) -> None:
        if not portable(key):
            return
        if len(self._now) >= self.MOST:
            self._before, self._now = self._now, {}
        self._now[key_hash] = key

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return iter({**self._before, **self._now}.items())
