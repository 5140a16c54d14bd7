"""One guarded request: what was sent so far, and whether somebody still listens."""

from __future__ import annotations

import asyncio

from gapless.service.asgi import Message, Receive, Send

DISCONNECT = "http.disconnect"


class Disconnected(OSError):
    """The client has gone (what ASGI 2.4 has `send` raise)."""


class Exchange:
    """Stands between app and server.

    An app that streams and never listens would go on for nobody, and keep its permits: once it streams, its client is
    watched, and `send` raises when that has gone. An app that listens itself is left alone.
    """

    __slots__ = ("_heard", "_listening", "_receive", "_send", "_watcher", "gone", "status")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._listening = 0
        self._heard: asyncio.Queue[Message] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.status = 0
        """0: nothing was sent yet."""
        self.gone = False

    async def receive(self) -> Message:
        if self._heard is not None and not (self._heard.empty() and self._watcher is None):
            return await self._heard.get()
        if self.gone:
            return {"type": DISCONNECT}
        self._listening += 1
        try:
            return await self._take()
        finally:
            self._listening -= 1

    async def send(self, message: Message) -> None:
        if self.gone:
            raise Disconnected("the client has disconnected")
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("more_body") and self._heard is None and not self._listening:
            self._heard = asyncio.Queue()
            self._watcher = asyncio.ensure_future(self._watch(self._heard))
        await self._send(message)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _take(self) -> Message:
        message = await self._receive()
        self.gone = self.gone or message["type"] == DISCONNECT
        return message

    async def _watch(self, heard: asyncio.Queue[Message]) -> None:
        """Until the client has gone. Of a body that the app has not read yet one piece is taken, no more: whoever sends
        it waits for the app."""
        more = False
        while not self.gone and not more:
            message = await self._take()
            more = bool(message.get("more_body"))
            heard.put_nowait(message)
        self._watcher = None
