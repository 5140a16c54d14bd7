"""Settings of a service that change while it works.

    class Shop(Settings):
        price_max: int = 100
        database: SecretStr

    settings = live(Shop, file="shop.yaml", prefix="SHOP_")
    service = Service("shop", app, settings=settings)

    settings.current.price_max

They come from defaults, the file, the environment and the store, in this order; later ones win. A change is taken whole
or not at all: it is validated, everybody concerned is asked (`callbacks`), then the one frozen value is swapped. A
request sees one value to its end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from gapless.config import secret_references, variables
from gapless.config.callbacks import Asked, Callback
from gapless.config.complaints import worded
from gapless.config.content import parsed
from gapless.config.document import dotted
from gapless.config.layers import Layer, leaves, merged, place_of
from gapless.config.reading import Reading, differences, line_of, masked, read_settings
from gapless.config.restart import find, held, marked
from gapless.config.secret_references import Secrets, Vault, references, resolved
from gapless.config.types import Path as Place
from gapless.config.types import is_secret, models
from gapless.core.errors import ConfigError
from gapless.core.ports import Store, World
from gapless.core.watched import POLL_S, content_of, file_contents, stored_contents
from gapless.core.world import RealWorld

T = TypeVar("T", bound=BaseModel)
_log = logging.getLogger("gapless.settings")

KEPT = "Nothing was changed; correct what is wrong."
NOTHING = "{}"
"""The document of a store in which there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of a change. `changes` and `pending` are lines for people, `price.max: 3 → 5`; of secrets they say only
    that they are others."""

    changes: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    """What takes effect with the next restart only."""
    failures: tuple[str, ...] = ()
    """What went wrong in those who were told; the change stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where settings come from, the weakest first."""

    file: Layer | None = None
    environment: Layer | None = None
    store: Layer | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(each for each in (self.file, self.environment, self.store) if each is not None)


def live(
    kind: type[T],
    *,
    file: Path | str | None = None,
    prefix: str = "",
    store: Store | None = None,
    key: str = "settings",
    vault: Vault | None = None,
    env: Mapping[str, str] | None = None,
    world: World | None = None,
) -> Live[T]:
    """Live settings of the given type: `gapless.config.Settings`, or another pydantic model that is frozen.

    `file`: YAML, JSON or TOML, watched. `prefix`: `SHOP_` reads `price.max` from `SHOP_PRICE__MAX`; without one the
    environment is not looked at. `store`, `key`: a document (YAML or JSON) in a store of your own, watched; a service
    of a system (`gapless up`) follows `gapless config` by itself. Raises ConfigError when the type is not frozen.
    """
    _check_kind(kind)
    return Live(kind, file=file, prefix=prefix, store=store, key=key, vault=vault, env=env, world=world)


class Live(Generic[T]):
    """See the module, and `live`, which makes it. Whoever runs it calls `load` once, then `watch`; a Service does."""

    def __init__(
        self,
        kind: type[T],
        *,
        file: Path | str | None,
        prefix: str,
        store: Store | None,
        key: str,
        vault: Vault | None,
        env: Mapping[str, str] | None,
        world: World | None,
    ) -> None:
        self.kind = kind
        self.prefix = prefix
        self._file = str(file) if file is not None else ""
        self._store = store
        self._key = key
        self._vault = vault
        self._env = os.environ if env is None else env
        self._world = world or RealWorld()
        self._sources = _Sources()
        self._value: T | None = None
        self._filled: dict[str, Any] = {}
        self._secrets: frozenset[str] = frozenset()
        """Their texts, so that they can be taken out of whatever is told."""
        self._reader: Secrets | None = None
        self._pending: tuple[str, ...] = ()
        self._checks: list[Callback] = []
        self._tellers: list[Callback] = []
        self._lock = asyncio.Lock()
        self.taken = 0
        """Changes that have come about since the start."""
        self.refused = 0
        """Changes that were refused, by whomever."""
        self._pinned: ContextVar[T | None] = ContextVar("settings", default=None)

    def __repr__(self) -> str:
        return f"Live({self.kind.__name__})"  # nothing of what is inside

    # What is known.

    @property
    def current(self) -> T:
        """The settings in force; within a request those that it began with. Raises ConfigError before `load`."""
        pinned = self._pinned.get()
        return self.latest if pinned is None else pinned

    @property
    def latest(self) -> T:
        """The newest settings, also within a request: for work that outlives it."""
        if self._value is None:
            raise ConfigError(
                f"the settings {self.kind.__name__} are not loaded yet",
                "Read them in a request, a resource or a task; a script calls `await settings.load()` first.",
            )
        return self._value

    @property
    def pending(self) -> tuple[str, ...]:
        """What waits for a restart, `pool: 10 → 20`."""
        return self._pending

    def shown(self) -> dict[str, dict[str, str]]:
        """Every setting in force by its path: `value` and `from`, its place; secrets are not shown."""
        layers = self._sources.layers
        found = {}
        for path, value in leaves(self.latest.model_dump(by_alias=True)):
            given = find(merged(layers), path)
            reference = given[1] if isinstance(given[1], str) and given[1].startswith(secret_references.PREFIX) else ""
            line = differences({}, {dotted(path): value})
            text = reference or (line[0].partition(" → ")[2] if line else "")
            found[dotted(path)] = {"value": text, "from": place_of(path, layers) if given[0] else "default"}
        return found

    @property
    def has_store(self) -> bool:
        """Whether it follows a store of its own."""
        return self._store is not None

    # Who is asked and told.

    def check(self, function: Callable[[T, T], Any]) -> Callable[[T, T], Any]:
        """Decorator: asked `(before, after)` before each change; refuses by raising or by returning False. May be
        async, and should do nothing else: it is also asked about changes that somebody only considers."""
        self._checks.append(function)
        return function

    def changed(self, function: Callable[[T, T], Any]) -> Callable[[T, T], Any]:
        """Decorator: told `(before, after)` after each change. A generator is asked up to its `yield` (what it raises
        refuses) and told behind it; when the change does not come about it is closed. May be async."""
        self._tellers.append(function)
        return function

    # What it does.

    def pin(self) -> Token[T | None]:
        """`current` stays what it is now, in this context, until `unpin`."""
        return self._pinned.set(self._value)

    def unpin(self, token: Token[T | None]) -> None:
        self._pinned.reset(token)

    async def load(self, store: Layer | None = None) -> None:
        """Read everything for the first time. `store`: what a control plane says. Raises ConfigError with every mistake
        and its place."""
        for name, meant in variables.misspelt(self.kind, self.prefix, self._env).items():
            _log.warning("the variable %s means nothing; %s was probably meant", name, meant)
        environment = variables.from_environment(self.kind, self.prefix, self._env)
        file = self._layer(content_of(self._file), self._file) if self._file else None
        if self._store is not None and store is None:
            store = await self._first_stored(self._store)
        async with self._lock:
            await self._apply(_Sources(file=file, environment=environment, store=store), dry=False)

    async def take(self, store: Layer | None) -> Taken:
        """What the store says now. Raises ConfigError, and changes nothing."""
        try:
            return await self._counted(lambda sources: replace(sources, store=store))
        except ConfigError:
            self.refused += 1
            raise

    async def consider(self, store: Layer | None) -> Taken:
        """What `take` would do: validated, and everybody asked; nothing changes. Raises ConfigError."""
        return await self._change(lambda sources: replace(sources, store=store), dry=True)

    async def watch(self) -> None:
        """Follow file, store and secrets, until cancelled. A change that is wrong is refused and logged."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_secrets())
            if self._file:
                group.create_task(self._follow(file_contents(self._file, self._world), self._file, "file"))
            if self._store is not None:
                changes = stored_contents(self._store, self._key, NOTHING)
                group.create_task(self._follow(changes, self._place, "store"))

    @property
    def _place(self) -> str:
        return f"{self._key} (store)"

    def _layer(self, text: str, name: str, kept: bool = False) -> Layer:
        """Raises ConfigError for what is no such document."""
        document = parsed(text, name)
        if document.problems:
            lines = [f"{name}:{problem.line}: {problem}" for problem in sorted(set(document.problems))]
            raise ConfigError("\n".join(lines), KEPT)
        places = {path: f"{name}:{line}" for path, line in document.lines.items()}
        return Layer(name=name, value=document.value, places=places, kept=kept)

    async def _first_stored(self, store: Store) -> Layer:
        changes = stored_contents(store, self._key, NOTHING)
        try:
            return self._layer(str(await anext(changes)), self._place, kept=True)
        finally:
            await changes.aclose()

    async def _follow(self, changes: AsyncGenerator[str | ConfigError, None], name: str, slot: str) -> None:
        async for found in changes:
            try:
                if isinstance(found, ConfigError):
                    raise found
                layer = self._layer(found, name, kept=slot == "store")
                await self._counted(lambda sources, layer=layer: replace(sources, **{slot: layer}))  # type: ignore[misc]
            except ConfigError as error:
                self.refused += 1
                _log.warning("settings stay as they are: %s", error.what)

    async def _watch_secrets(self) -> None:
        """A file that holds a secret may be written anew."""
        told = ""
        while True:
            await self._world.sleep(POLL_S)
            if not references(merged(self._sources.layers)):
                continue
            try:
                await self._change(lambda sources: sources)
                told = ""
            except ConfigError as error:
                if error.what != told:  # a lasting fault is said once
                    _log.warning("settings stay as they are: %s", error.what)
                told = error.what

    async def _counted(self, change: Callable[[_Sources], _Sources]) -> Taken:
        taken = await self._change(change)
        self.taken += bool(taken.changes)
        return taken

    async def _change(self, change: Callable[[_Sources], _Sources], *, dry: bool = False) -> Taken:
        async with self._lock:
            return await self._apply(change(self._sources), dry=dry)

    async def _apply(self, sources: _Sources, *, dry: bool) -> Taken:
        """The whole way of a change: read, validate, hold back, ask, swap, tell. Raises ConfigError before the swap."""
        reading = await self._read(sources)
        known = reading.secrets | self._secrets
        value, pending = self._held(reading, known)
        before = self._value
        changes = (
            tuple(differences(before.model_dump(by_alias=True), value.model_dump(by_alias=True)))
            if before is not None
            else ()
        )
        asked = Asked(self._world, self._tellers, before, value, lambda text: masked(text, known))
        is_change = before is not None and value != before
        if is_change:
            await self._ask(asked)
        if dry:
            await asked.drop()
            return Taken(changes=changes, pending=pending)
        self._log_change(changes, pending)
        self._sources, self._pending, self._secrets = sources, pending, reading.secrets
        self._filled = reading.filled if not pending else held(reading.filled, self._filled, marked(self.kind))
        self._value = value
        failures = await asked.tell() if is_change else []
        return Taken(changes=changes, pending=pending, failures=tuple(failures))

    async def _ask(self, asked: Asked) -> None:
        try:
            await asked.ask(self._checks)
        except BaseException:
            await asked.drop()
            raise
        if asked.refusals:
            await asked.drop()
            raise ConfigError("\n".join(map(str, asked.refusals)), "Nothing was changed.")

    def _log_change(self, changes: tuple[str, ...], pending: tuple[str, ...]) -> None:
        if changes:
            _log.info("settings changed: %s", "; ".join(changes))
        if pending and pending != self._pending:
            _log.warning("settings that need a restart (`gapless reload`) to take effect: %s", "; ".join(pending))

    async def _read(self, sources: _Sources) -> Reading[T]:
        """Raises ConfigError with every mistake."""
        whole = merged(sources.layers)
        texts, lost = await resolved(references(whole), self._secret_reader())
        reading = read_settings(self.kind, sources.layers, whole, texts, lost)
        if reading.problems:
            raise ConfigError("\n".join(reading.problems), KEPT)
        return reading

    def _secret_reader(self) -> Secrets:
        if self._reader is None:
            from gapless.config.vault import HttpVault

            self._reader = Secrets(self._env, self._vault or HttpVault(self._env), self._world)
        return self._reader

    def _held(self, reading: Reading[T], secrets: frozenset[str]) -> tuple[T, tuple[str, ...]]:
        """The value with what needs a restart as it runs, and what of it waits. Raises ConfigError when the two do not
        go together."""
        wanted = reading.value
        assert wanted is not None
        if self._value is None:
            return wanted, ()
        running, new = self._value.model_dump(by_alias=True), wanted.model_dump(by_alias=True)
        paths = [path for path in marked(self.kind) if find(running, path) != find(new, path)]
        if not paths:
            return wanted, ()
        pending = [line for path in paths for line in differences(_only(running, path), _only(new, path))]
        try:
            return self.kind.model_validate(held(reading.filled, self._filled, paths)), tuple(pending)
        except ValidationError as error:
            names = ", ".join(map(dotted, paths))
            lines = [line_of(path, what) for path, what in worded(error, self.kind, self._hidden)]
            raise ConfigError(
                masked(f"does not go together with {names} as it runs: {'; '.join(lines)}", secrets),
                f"{names} changes with a restart only: change it first, then `gapless reload`.",
            ) from None

    def _hidden(self, path: Place) -> bool:
        return is_secret(self.kind, path)


def _only(value: Mapping[str, Any], path: Place) -> dict[str, Any]:
    """One part of it, at its place."""
    there, found = find(value, path)
    result: Any = found
    for part in reversed(path):
        result = {part: result}
    return result if there else {}


def _check_kind(kind: type[BaseModel]) -> None:
    """Frozen throughout: whoever holds a value must be able to trust it."""
    soft = [each.__name__ for each in models(kind) if not each.model_config.get("frozen")]
    if soft:
        raise ConfigError(
            f"live settings must be frozen, and {', '.join(soft)} is not",
            "Derive from gapless.config.Settings, or give model_config = ConfigDict(frozen=True).",
        )
