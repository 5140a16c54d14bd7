"""Guards that change while they work: by name, from a file or a store.

    guards = Guards()
    payments = guards.define("payments", deadline(2.0), fallback(cached), breaker())
    await guards.load("guards.yaml", watch=True)

What code defines is where a guard begins; what the document says of a policy goes before it, kind by kind, in its place
(a kind that code has not comes where it is safe). A name or kind that leaves the document falls back to the code's.
A document is taken whole or not at all: one that is wrong changes nothing and says why. Windows, tokens and counters go
on (`Guard.replace`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gapless.core.errors import Compacted, ConfigError
from gapless.core.ports import Store, World
from gapless.resilience.events import GuardEvent, GuardHook, tell
from gapless.resilience.guard import Guard
from gapless.resilience.guard import Guards as Collection
from gapless.resilience.order import safe_order
from gapless.resilience.parse import Draft, Problem, parse
from gapless.resilience.policy import Policy

_log = logging.getLogger("gapless.guard")

KEY = "guards"
"""Where a store holds the document."""
POLL_S = 1.0
"""Between two looks at a file: one stat a second."""
SETTLED_NS = 2_000_000_000
"""A file that was written so recently may be written again within one tick of its clock: its content is compared."""

NOTHING = "{}"
"""The document of a store in which there is none."""

Policies = tuple[Policy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardsChanged(GuardEvent):
    """A document was taken over. `changes`: guard → what is different, each in a line for people."""

    source: str
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardsRefused(GuardEvent):
    """A document is wrong; everything stays as it was. `what`: `source:line: place: what`, one per line."""

    source: str
    what: str


class Guards(Collection):
    """See the module. Close it to stop watching."""

    def __init__(self, world: World | None = None) -> None:
        super().__init__(world)
        self._hooks: tuple[GuardHook, ...] = ()
        self._code: dict[str, Policies] = {}
        self._put: dict[str, Policies] = {}
        """What the last document has made of each guard that it named."""
        self._watching: set[asyncio.Task[None]] = set()

    def subscribe(self, hook: GuardHook) -> Callable[[], None]:
        """Tell `hook` of GuardsChanged and GuardsRefused; returns the way to end that."""
        self._hooks = (*self._hooks, hook)

        def unsubscribe() -> None:
            self._hooks = tuple(each for each in self._hooks if each is not hook)

        return unsubscribe

    async def load(self, source: Path | str | Store, *, watch: bool = False, key: str = KEY) -> None:
        """Take over a file, or the document below a store's key (none there: what code says).

        `watch`: go on doing so whenever it changes, until `close`. Raises ConfigError for a document that is wrong now;
        one that becomes wrong later is refused and told (`subscribe`, and the log).
        """
        changes = _file(source, self._world) if isinstance(source, (str, Path)) else _stored(source, key)
        name = str(source) if isinstance(source, (str, Path)) else f"{key} (store)"
        first = await anext(changes)
        if isinstance(first, ConfigError):
            raise first
        self.take(first, name)
        if not watch:
            await changes.aclose()
            return
        task = asyncio.get_running_loop().create_task(self._follow(changes, name), name=f"guards of {name}")
        self._watching.add(task)
        task.add_done_callback(self._ended)

    def read(self, path: Path | str) -> tuple[str, ...]:
        """Take over a file, for code that is not async. Raises ConfigError. Returns the names that changed."""
        return self.take(_text(Path(path)), str(path))

    def take(self, text: str, source: str) -> tuple[str, ...]:
        """Take over a document: all of it or nothing. Raises ConfigError. Returns the names that changed."""
        draft = parse(text)
        wanted = self._merged(draft)
        draft.problems += self._misfits(wanted, draft) if not draft.problems else []
        if draft.problems:
            raise ConfigError(_report(source, draft.problems), "Nothing was changed; correct the document.")
        before = {name: self.get(name).policies for name in wanted}
        changed = self.replace(wanted)
        self._put = {name: wanted[name] for name in draft.guards}
        if changed:
            changes = {name: tuple(differences(before[name], wanted[name])) for name in changed}
            _log.info("guards changed by %s: %s", source, changes)
            tell(self._hooks, GuardsChanged(guard="", source=source, changes=changes))
        return changed

    def close(self) -> None:
        for task in self._watching:
            task.cancel()
        super().close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._watching.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s are watched no longer, and stay as they are", task.get_name(), exc_info=error)

    async def _follow(self, changes: AsyncIterator[str | ConfigError], source: str) -> None:
        async for found in changes:
            try:
                if isinstance(found, ConfigError):
                    raise found
                self.take(found, source)
            except ConfigError as error:
                _log.warning("guards stay as they are: %s", error.what)
                tell(self._hooks, GuardsRefused(guard="", source=source, what=error.what))

    def _merged(self, draft: Draft) -> dict[str, Policies]:
        """What each guard is to be: named now, or named once and back to what code says."""
        names = list(dict.fromkeys([*draft.guards, *self._code]))
        return {name: merged(self._by_code(name), draft.guards.get(name, ())) for name in names}

    def _by_code(self, name: str) -> Policies:
        """What code has given the guard, also when that was after the last document."""
        now = self.get(name).policies if name in self else ()
        if name not in self._put or now != self._put[name]:
            self._code[name] = now
        return self._code[name]

    def _misfits(self, wanted: Mapping[str, Policies], draft: Draft) -> list[Problem]:
        found = []
        for name, policies in wanted.items():
            try:
                (self.get(name) if name in self else Guard(name, world=self._world)).check(policies)
            except ConfigError as error:
                found.append(Problem(draft.lines.get(name, 1), name, f"{error.what}: {error.remedy}"))
        return found


def merged(code: Policies, document: Policies) -> Policies:
    """The document's policies instead of the code's of the same kind, in their places; new kinds where it is safe. A
    guard that code has not defined is the document's, in its order."""
    if not code:
        return document
    kinds = {policy.kind for policy in document}
    result: list[Policy] = []
    for policy in code:
        if policy.kind not in kinds:
            result.append(policy)
        elif not any(each.kind == policy.kind for each in result):
            result += [each for each in document if each.kind == policy.kind]
    new = [policy for policy in document if all(each.kind != policy.kind for each in code)]
    return tuple(_inserted(result, new)) if new else tuple(result)


def _inserted(policies: list[Policy], new: Sequence[Policy]) -> list[Policy]:
    """In the order that is safe, the others moved as little as possible."""
    by_kind: dict[str, list[Policy]] = {}
    for policy in [*policies, *new]:
        by_kind.setdefault(policy.kind, []).append(policy)
    return [by_kind[kind].pop(0) for kind in safe_order([policy.kind for policy in [*policies, *new]])]


def differences(before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """What changed, a line for each policy or number: `breaker.rate: 0.5 → 0.3`, `added limit(…)`, `removed …`."""
    found: list[str] = []
    for kind in dict.fromkeys(policy.kind for policy in [*before, *after]):
        pairs = zip_longest([p for p in before if p.kind == kind], [p for p in after if p.kind == kind])
        found += [line for old, new in pairs for line in _difference(kind, old, new)]
    kept = [[p.kind for p in side] for side in (before, after)]
    if not found and kept[0] != kept[1]:
        found.append(f"order: {', '.join(kept[0])} → {', '.join(kept[1])}")
    return found


def _difference(kind: str, old: Any, new: Any) -> list[str]:
    if old is None:
        return [f"added {new}"]
    if new is None:
        return [f"removed {old}"]
    if type(old) is not type(new) or not is_dataclass(old):
        return [] if old == new else [f"{kind}: {old} → {new}"]
    pairs = ((each.name, getattr(old, each.name), getattr(new, each.name)) for each in fields(old))
    return [f"{kind}.{name}: {was} → {now}" for name, was, now in pairs if was != now]


def _report(source: str, problems: Sequence[Problem]) -> str:
    lines = sorted({(p.line, p.place, p.what) for p in problems})
    return "\n".join(f"{source}:{line}: {place + ': ' if place else ''}{what}" for line, place, what in lines)


# Where documents come from: iterators of each new content, the present one first.


async def _file(path: Path | str, world: World) -> AsyncGenerator[str | ConfigError, None]:
    place = Path(path)
    mark, found = _mark(place), _content(place)
    while True:
        yield found
        before, was = mark, found
        while found == was or (isinstance(found, ConfigError) and mark == before):
            await world.sleep(POLL_S)
            before, mark = mark, _mark(place)
            if mark != before or world.time() * 1e9 - mark[0] < SETTLED_NS:
                found = _content(place)


def _mark(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file does, but for two writes within one tick of the file system's clock."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _content(path: Path) -> str | ConfigError:
    try:
        return _text(path)
    except ConfigError as error:
        return error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8", "Save the file as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "Name a file that is there and readable.") from error


async def _stored(store: Store, key: str) -> AsyncGenerator[str | ConfigError, None]:
    while True:
        listing = await store.list(key)
        yield next((_decoded(entry.value) for entry in listing.entries if entry.key == key), NOTHING)
        try:
            async for updates in store.watch(key, after=listing.revision):
                for update in updates:
                    if update.key == key:
                        yield NOTHING if update.value is None else _decoded(update.value)
            return  # the store was closed
        except Compacted:
            continue  # too far behind: look again at what is there


def _decoded(value: bytes) -> str:
    """What is not UTF-8 becomes signs that the parser refuses with their line."""
    return value.decode("utf-8", "replace")
