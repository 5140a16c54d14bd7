"""Live settings that follow `gapless config`, as clients follow routes: from a file that the control plane leaves, so
that a service starts with the last known configuration while no control plane is there, and from a stream that is
opened again whenever it ends.

What this worker obeys, and why it does not, is told back; so is whether it would take a revision that somebody is about
to write.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gapless.core.codec import decode, encode
from gapless.core.configured import ConfigAsk, ConfigDocument, ConfigMessage, ConfigReply, ConfigRevision
from gapless.core.errors import ConfigError, GaplessError, StoreBroken
from gapless.core.ports import World
from gapless.discovery.lasting import Stream, lasting
from gapless.discovery.stream import open_stream, send
from gapless.service.identity import Identity

if TYPE_CHECKING:
    from gapless.config.layers import Layer
    from gapless.config.live_settings import Live

_log = logging.getLogger("gapless.settings")

FIRST_LIMIT_S = 1.0
"""For the control plane's first word at the start; then the file is taken, which is as new but for a moment."""

Say = Callable[[ConfigReply], Coroutine[Any, Any, None]]
"""Tells the control plane; raises OSError or EOFError when nobody is there."""


class Follower:
    """One worker's side of the control plane's configuration channel."""

    def __init__(self, live: Live[Any], identity: Identity, world: World, file: str, stream: Stream, say: Say) -> None:
        self._live = live
        self._world = world
        self._instance = identity.instance
        self._file = file
        self._stream = stream
        self._say = say
        self._worker = str(os.getpid())
        self._report = self._reply()
        self._refused = -1
        """The number of the revision that was refused: it is not tried again."""

    @classmethod
    def of_control(cls, live: Live[Any], identity: Identity, world: World) -> Follower:
        name, socket = quote(identity.service, safe=""), identity.control
        place = f"/v1/services/{name}/configuration"
        query = f"?instance={quote(identity.instance, safe='')}&worker={os.getpid()}"
        file = os.path.join(identity.state, "config", f"{name}.json") if identity.state else ""

        async def say(reply: ConfigReply) -> None:
            await send(socket, f"{place}/replies", encode(reply))

        return cls(live, identity, world, file, lambda: open_stream(socket, place + query), say)

    async def first(self) -> Layer | None:
        """What to begin with: the control plane's word, or its last one from the file; None when there is neither."""
        document = await self._first_word() or self._last_word()
        revision = document.for_instance(self._instance) if document else None
        self._report = self._reply(number=revision.number if revision else 0)
        return layer_of(revision)

    async def follow(self) -> None:
        """For ever: do what is said, and tell what came of it."""
        async with contextlib.aclosing(lasting(self._stream, self._world, "configuration stream")) as lines:
            async for line in lines:
                try:
                    message = decoded(line)
                except OSError as error:
                    _log.error("%s, which is ignored", error)
                    continue
                await self._heard(message)

    async def _heard(self, message: ConfigMessage) -> None:
        if message.document:
            await self.obey(message.document)
        if message.ask:
            await self._tell(await self.answer(message.ask))

    async def obey(self, document: ConfigDocument) -> None:
        """Take what is new, and report; a revision that was refused is not tried again, only reported."""
        revision = document.for_instance(self._instance)
        number = revision.number if revision else 0
        if number != self._report.number and number != self._refused:
            await self._take(revision, number)
        await self._tell(self._report)

    async def _take(self, revision: ConfigRevision | None, number: int) -> None:
        try:
            taken = await self._live.take(layer_of(revision))
        except GaplessError as error:
            _log.warning("revision %d of the configuration is refused: %s", number, error.what)
            self._refused = number
            self._report = self._reply(number=number, ok=False, what=error.what)
            return
        self._refused = -1
        self._report = self._reply(number=number, changes=taken.changes, pending=taken.pending, failures=taken.failures)

    async def answer(self, ask: ConfigAsk) -> ConfigReply:
        """Whether it would take a revision, or what is in force."""
        if ask.revision is None:
            pending = self._live.pending
            return self._reply(ask=ask.id, number=self._report.number, pending=pending, shown=self._live.shown())
        try:
            taken = await self._live.consider(layer_of(ask.revision))
        except GaplessError as error:
            return self._reply(ask=ask.id, ok=False, what=error.what)
        return self._reply(ask=ask.id, changes=taken.changes, pending=taken.pending)

    def _reply(self, **what: Any) -> ConfigReply:
        return ConfigReply(instance=self._instance, worker=self._worker, **what)

    async def _tell(self, reply: ConfigReply) -> None:
        try:
            await self._say(reply)
        except (OSError, EOFError) as error:
            _log.debug("the control plane did not hear: %s", error)  # the next stream begins with a report

    async def _first_word(self) -> ConfigDocument | None:
        from gapless.config.callbacks import limited

        try:
            return await limited(self._first_line(self._stream()), FIRST_LIMIT_S, self._world)  # type: ignore[no-any-return]
        except (OSError, EOFError, TimeoutError) as error:
            _log.info("no control plane tells the configuration (%s); the last known one is taken", error or "it ended")
            return None

    async def _first_line(self, lines: AsyncGenerator[bytes]) -> ConfigDocument | None:
        async with contextlib.aclosing(lines):
            async for line in lines:
                return decoded(line).document
        return None

    def _last_word(self) -> ConfigDocument | None:
        """Raises ConfigError: to begin without what is known would be to begin with something else."""
        if not self._file or not os.path.exists(self._file):
            return None
        try:
            with open(self._file, "rb") as file:
                return decode(file.read(), ConfigDocument)
        except (OSError, StoreBroken) as error:
            raise ConfigError(
                f"the last known configuration cannot be read from {self._file}: {error}",
                "Start the control plane (`gapless up`), which writes it anew.",
            ) from error


def decoded(line: bytes) -> ConfigMessage:
    """Raises OSError for nonsense, as for any other trouble with a stream."""
    from gapless.core.codec import decode

    try:
        return decode(line, ConfigMessage)
    except StoreBroken as error:
        raise OSError(f"the control plane sent what does not fit: {error}") from error


def layer_of(revision: ConfigRevision | None) -> Layer | None:
    """A revision as the source that it is."""
    from gapless.config.layers import Layer

    if revision is None:
        return None
    places: dict[tuple[str | int, ...], str] = {
        tuple(path.split(".")): place for path, place in revision.places.items()
    }
    return Layer(name=f"store (revision {revision.number})", value=revision.values, places=places, kept=True)
