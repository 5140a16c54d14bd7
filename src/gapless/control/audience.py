"""Who listens for the configuration of services: each worker of each instance, by a stream of its own. What they say is
kept in memory only: whoever connects says it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from itertools import count

from gapless.core import codec
from gapless.core.configured import ConfigAsk, ConfigDocument, ConfigMessage, ConfigReply, ConfigRevision
from gapless.core.ports import World

ANSWER_LIMIT_S = 10.0
"""For an answer to a question: twice what a worker gives each of its callbacks."""


class Listener:
    """One worker's stream. A slow one skips to the newest document; questions are never skipped."""

    def __init__(self, service: str, instance: str, worker: str) -> None:
        self.service = service
        self.instance = instance
        self.worker = worker
        self.report: ConfigReply | None = None
        """What it said last that it obeys."""
        self.answers: dict[int, asyncio.Future[ConfigReply | None]] = {}
        self._document: ConfigDocument | None = None
        self._asks: list[ConfigAsk] = []
        self._news = asyncio.Event()

    def put(self, document: ConfigDocument) -> None:
        self._document = document
        self._news.set()

    def ask(self, ask: ConfigAsk) -> asyncio.Future[ConfigReply | None]:
        self._asks.append(ask)
        self._news.set()
        return self.answers.setdefault(ask.id, asyncio.get_running_loop().create_future())

    async def lines(self) -> AsyncIterator[bytes]:
        while True:
            await self._news.wait()
            self._news.clear()
            document, self._document = self._document, None
            asks, self._asks = self._asks, []
            for message in (ConfigMessage(document=document), *(ConfigMessage(ask=ask) for ask in asks)):
                if message.document or message.ask:
                    yield codec.encode(message) + b"\n"

    def end(self) -> None:
        """Nobody will answer any more."""
        for answer in self.answers.values():
            if not answer.done():
                answer.set_result(None)


class Audience:
    """All listeners."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._listeners: list[Listener] = []
        self._numbers = count(1)

    async def listen(self, service: str, instance: str, worker: str, document: ConfigDocument) -> AsyncGenerator[bytes]:
        """The lines for one worker, until it goes away."""
        listener = Listener(service, instance, worker)
        listener.put(document)
        for before in self.of(service):
            if (before.instance, before.worker) == (instance, worker):
                self._forget(before)  # its connection has ended, though we have not heard of that yet
        self._listeners.append(listener)
        try:
            async for line in listener.lines():
                yield line
        finally:
            self._forget(listener)

    def _forget(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
        listener.end()

    def of(self, service: str) -> list[Listener]:
        return [each for each in self._listeners if each.service == service]

    def publish(self, document: ConfigDocument) -> None:
        for listener in self.of(document.service):
            listener.put(document)

    def hear(self, service: str, reply: ConfigReply) -> None:
        """What a worker says. Who is not listening any more is not heard."""
        for listener in self.of(service):
            if (listener.instance, listener.worker) == (reply.instance, reply.worker):
                self._heard(listener, reply)

    def _heard(self, listener: Listener, reply: ConfigReply) -> None:
        if not reply.ask:
            listener.report = reply
        elif (answer := listener.answers.get(reply.ask)) and not answer.done():
            answer.set_result(reply)

    async def ask_one(self, service: str) -> ConfigReply | None:
        """What is in force in any one of them."""
        for listener in self.of(service):
            answers = await self._ask([listener], None)
            if answers and answers[0].ok:
                return answers[0]
        return None

    async def ask(self, service: str, revision: ConfigRevision) -> list[ConfigReply]:
        """The answers of all listeners; who goes away meanwhile has none. Who stays silent is in the list, not ok."""
        return await self._ask(self.of(service), revision)

    async def _ask(self, asked: Sequence[Listener], revision: ConfigRevision | None) -> list[ConfigReply]:
        question = ConfigAsk(id=next(self._numbers), revision=revision)
        answers = [listener.ask(question) for listener in asked]
        cancel = self._world.after(ANSWER_LIMIT_S, lambda: _give_up(asked, question.id))
        try:
            return [reply for answer in answers if (reply := await answer) is not None]
        finally:
            cancel()
            for listener in asked:
                listener.answers.pop(question.id, None)


def _give_up(asked: Sequence[Listener], number: int) -> None:
    for listener in asked:
        if not (answer := listener.answers[number]).done():
            what = f"it did not answer within {ANSWER_LIMIT_S:g} s"
            reply = ConfigReply(instance=listener.instance, worker=listener.worker, ask=number, ok=False, what=what)
            answer.set_result(replace(reply, silent=True))
