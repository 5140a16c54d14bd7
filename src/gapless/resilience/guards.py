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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gapless.core.errors import ConfigError
from gapless.core.ports import Store, World
from gapless.core.value import fields_of
from gapless.core.watched import content_of, file_contents, stored_contents
from gapless.resilience import memory
from gapless.resilience.events import GuardEvent, GuardHook, tell
from gapless.resilience.guard import Guard
from gapless.resilience.guard import Guards as Collection
from gapless.resilience.memory import Part
from gapless.resilience.order import safe_order
from gapless.resilience.parse import Draft, Problem, parse
from gapless.resilience.policy import Policy

_log = logging.getLogger("gapless.guard")

KEY = "guards"
"""Where a store holds the document."""
STATE_BYTES = 1_000_000
"""Some 30,000 keys; more would take a moment of the event loop that has to go on serving."""
OLD_S = 3600.0
"""Nothing that a guard remembers means anything after an hour."""

NOTHING = "{}"
"""The document of a store in which there is none."""

Policies = tuple[Policy, ...]


class GuardsChanged(GuardEvent):
    """A document was taken over. `changes`: guard → what is different, each in a line for people."""

    source: str
    changes: Mapping[str, tuple[str, ...]] = MappingProxyType({})


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
        self._inherited: dict[str, list[tuple[Part, float]]] = {}
        """From a process before, and the moment of it on this one's clock, for guards that are not defined yet."""

    def add(self, guard: Guard) -> Guard:
        super().add(guard)
        self._recall(guard)
        return guard

    def define(self, name: str, *policies: Policy) -> Guard:
        found = super().define(name, *policies)
        self._recall(found)
        return found

    def replace(self, wanted: Mapping[str, Sequence[Policy]]) -> tuple[str, ...]:
        changed = super().replace(wanted)
        for name in changed:
            self._recall(self.get(name))
        return changed

    def force(self, name: str, mode: str) -> None:
        """As `Guard.force`, by name. Raises ConfigError."""
        if name not in self:
            raise ConfigError(
                f"there is no guard {name!r}", f"Known: {', '.join(each.name for each in self) or 'none'}."
            )
        self.get(name).force(mode)

    def dump_state(self, limit_bytes: int = STATE_BYTES) -> bytes:
        """What all guards remember, for the process that comes after this one: breakers' windows and states, adaptive
        limits, latencies, budgets, and as many keys' buckets as go into `limit_bytes`, those that matter most first.
        See `memory`."""
        parts = [part for each in self for part in each.dump()]
        return memory.encode(parts, self._world.time(), limit_bytes)

    def load_state(self, content: bytes) -> None:
        """What a process before has dumped; guards that are defined later get their part then. Never raises: what is
        old, broken or unknown is left out, with a line in the log."""
        if not content:
            return
        try:
            at, parts = memory.decode(content)
            ago_s = max(self._world.time() - at, 0.0)
            if ago_s > OLD_S:
                raise ConfigError(f"the guards' state is {ago_s:.0f} s old", "The guards begin anew.")
        except ConfigError as error:
            _log.warning("%s", error)
            return
        then = self._world.now() - ago_s
        for part in parts:
            self._inherited.setdefault(part.guard, []).append((part, then))
        for guard in self:
            self._recall(guard)
        for name in self._inherited:
            _log.info("the state of guard %r waits until there is one of that name", name)

    def _recall(self, guard: Guard) -> None:
        if not guard.policies:
            return  # so far it was only asked for
        for part, then in self._inherited.pop(guard.name, ()):
            try:
                guard.load(part.place, part.memory, then)
            except ConfigError as error:
                _log.warning("%s", error)

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
        if isinstance(source, (str, Path)):
            changes, name = file_contents(source, self._world), str(source)
        else:
            changes, name = stored_contents(source, key, NOTHING), f"{key} (store)"
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
        return self.take(content_of(path), str(path))

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
    if type(old) is not type(new) or not (names := fields_of(old)):
        return [] if old == new else [f"{kind}: {old} → {new}"]
    pairs = ((name, getattr(old, name), getattr(new, name)) for name in names)
    return [f"{kind}.{name}: {was} → {now}" for name, was, now in pairs if was != now]


def _report(source: str, problems: Sequence[Problem]) -> str:
    lines = sorted({(p.line, p.place, p.what) for p in problems})
    return "\n".join(f"{source}:{line}: {place + ': ' if place else ''}{what}" for line, place, what in lines)
