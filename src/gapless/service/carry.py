"""State in memory that travels from one process of a service to the next.

Each part is bytes, or a value that JSON can hold. What is too big, too slow or broken stays behind, with a line in the
log: a successor must always be able to begin without it.

    {"gapless-state": 1, "parts": [[name, "bytes" or "json", length], …]} LF, then the parts
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gapless.core.size import size
from gapless.resilience.deadline import within

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.kit")

VERSION = 1
MARK = "gapless-state"
LIMIT = "8MB"
"""Of one part. Dumping it takes a moment of the loop that has to go on serving."""


GUARDS_BYTES = 2_000_000
"""Above the limit that guards keep by themselves."""


class Part(NamedTuple):
    dump: Callable[[], Any]
    load: Callable[[Any], Any]
    limit: int


class Left(NamedTuple):
    """Names of what has been dumped or loaded, and why the others stayed behind."""

    done: list[str]
    behind: dict[str, str]


class Carrying:
    """The parts that a service has declared, and those that it finds by itself (`found`)."""

    def __init__(self, world: World, found: Callable[[], Mapping[str, Part]]) -> None:
        self._world = world
        self._found = found
        self._declared: dict[str, Part] = {}

    def add(self, name: str, dump: Callable[[], Any], load: Callable[[Any], Any], limit: int | str) -> None:
        """Raises ValueError when the name is taken, ConfigError."""
        if name in self._declared:
            raise ValueError(f"there is state named {name!r} already")
        self._declared[name] = Part(
            dump, load, limit if isinstance(limit, int) else size(limit, f"the limit of {name}")
        )

    @property
    def parts(self) -> dict[str, Part]:
        return {**self._found(), **self._declared}

    async def dump(self, limit_s: float) -> tuple[bytes, Left]:
        """Everything that comes within `limit_s` and its limit of size. Never raises."""
        packed: list[tuple[str, bytes | str]] = []
        behind: dict[str, str] = {}
        end = self._world.now() + limit_s
        for name, part in self.parts.items():
            try:
                async with within(self._world, max(end - self._world.now(), 0.001)):
                    content = _packed(await _called(part.dump))
                if len(content) > part.limit:
                    raise ValueError(f"{len(content)} bytes are over its limit of {part.limit}")
                packed.append((name, content))
            except Exception as error:  # noqa: BLE001 - the author's; told, and the rest goes on
                behind[name] = _left_behind(name, error)
        return encode(packed), Left([name for name, _ in packed], behind)

    async def load(self, content: bytes) -> Left:
        """What a predecessor has dumped. Never raises; parts that nobody has declared are left out."""
        done: list[str] = []
        behind: dict[str, str] = {}
        parts = self.parts
        try:
            found = list(decode(content))
        except ValueError as error:
            return Left([], {"all": _left_behind("all", error)})
        for name, value in found:
            if name not in parts:
                continue
            try:
                await _called(parts[name].load, value)
                done.append(name)
            except Exception as error:  # noqa: BLE001 - the author's; told, and the rest goes on
                behind[name] = _left_behind(name, error)
        return Left(done, behind)


async def _called(function: Callable[..., Any], *values: Any) -> Any:
    result = function(*values)
    return await result if inspect.isawaitable(result) else result


def _packed(value: Any) -> bytes | str:
    """Bytes as they are, everything else as JSON. Raises TypeError, ValueError."""
    return bytes(value) if isinstance(value, (bytes, bytearray)) else json.dumps(value, separators=(",", ":"))


def _left_behind(name: str, error: Exception) -> str:
    why = "it took too long" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
    _log.warning("state %r does not travel: %s", name, why)
    return why


def encode(parts: Sequence[tuple[str, bytes | str]]) -> bytes:
    """Parts by name: bytes, or the text of a JSON value."""
    contents = [(name, part if isinstance(part, bytes) else part.encode(), part) for name, part in parts]
    head = [[name, "bytes" if isinstance(part, bytes) else "json", len(content)] for name, content, part in contents]
    first = json.dumps({MARK: VERSION, "parts": head}, separators=(",", ":")).encode()
    return b"\n".join([first, b"".join(content for _, content, _ in contents)])


def decode(content: bytes) -> Iterator[tuple[str, Any]]:
    """The parts again. Raises ValueError for what is none, or of another version."""
    first, _, rest = content.partition(b"\n")
    at = 0
    for name, kind, length in _head(first):
        piece = rest[at : at + length]
        if len(piece) != length:
            raise ValueError(f"the state {name!r} is cut off")
        yield name, json.loads(piece) if kind == "json" else piece
        at += length


def _head(first: bytes) -> list[tuple[str, str, int]]:
    try:
        head = json.loads(first)
        if head[MARK] == VERSION:
            return [(str(name), str(kind), int(length)) for name, kind, length in head["parts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"this is no state: {first[:80]!r}") from error
    raise ValueError(f"this is state of version {head[MARK]!r}, not {VERSION}")
