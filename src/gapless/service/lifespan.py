"""The wrapped app's own ASGI lifespan, as an async context manager: one resource among the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gapless.core.errors import AppError, GaplessError
from gapless.service.asgi import App, Message, Receive, Send


class _Unsupported(Exception):
    """The app answers the lifespan scope as if it were a request."""


class _Conversation:
    """What the app is told and what it has said."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Message] = asyncio.Queue()
        self.said: asyncio.Queue[Message] = asyncio.Queue()
        self.listened = False

    async def receive(self) -> Message:
        self.listened = True
        return await self.told.get()

    async def send(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):
            raise _Unsupported(message["type"])
        self.said.put_nowait(message)


async def _ask(talk: _Conversation, running: asyncio.Task[None], phase: str) -> Message | None:
    """Tell the app about a phase; its answer, or None when it ended without one."""
    talk.told.put_nowait({"type": f"lifespan.{phase}"})
    answer = asyncio.ensure_future(talk.said.get())
    try:
        await asyncio.wait({answer, running}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()


def _raise_if_failed(talk: _Conversation, running: asyncio.Task[None]) -> None:
    """An app without lifespan refuses the scope before it listens; one that listened and then raised has failed."""
    error = running.exception()
    if error is None or not talk.listened or isinstance(error, _Unsupported):
        return
    raise AppError(f"the app's own lifespan start-up failed: {type(error).__name__}: {error}") from error


async def _stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.wait({running})


@asynccontextmanager
async def lifespan(app: App, state: dict[str, Any]) -> AsyncIterator[bool]:
    """Start-up on entry, shutdown on exit; yields whether the app takes part. `state` is filled by the app and belongs
    in the scope of each request. Raises AppError when the app says that it failed, in its own words."""
    talk = _Conversation()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    running: asyncio.Task[None] = asyncio.ensure_future(_run(app, scope, talk))
    try:
        answer = await _ask(talk, running, "startup")
        if answer is None:
            _raise_if_failed(talk, running)
            yield False
            return
        _check(answer, "startup")
        yield True
        _check(await _ask(talk, running, "shutdown"), "shutdown")
    finally:
        await _stop(running)


async def _run(app: App, scope: dict[str, Any], talk: _Conversation) -> None:
    await app(scope, talk.receive, talk.send)


def _check(answer: Message | None, phase: str) -> None:
    if answer is not None and answer["type"] == f"lifespan.{phase}.failed":
        raise AppError(f"the app's own lifespan {phase} failed: {answer.get('message', '') or 'it gave no reason'}")


async def obey(
    receive: Receive, send: Send, start: Callable[[], Awaitable[object]], drain: Callable[[], Awaitable[object]]
) -> None:
    """The other side of it: a server that does not know us starts and ends us by this protocol."""
    await receive()
    try:
        await start()
    except GaplessError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await drain()
    await send({"type": "lifespan.shutdown.complete"})
