"""WSGI apps (Flask, Django) behind ASGI: each request in a thread of a small pool, bodies in both directions as they
come. The adapter is a2wsgi's (`gapless[wsgi]`); this mends what happens when a client goes away.

    service = Service("orders", from_wsgi(app, threads=20))
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gapless.core.errors import ConfigError
from gapless.service.asgi import App, Message, Receive, Scope, Send
from gapless.service.interface import THREADS
from gapless.service.protect_exchange import DISCONNECT, Exchange

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_KEY = "gapless.exchange"
"""Where a request's scope holds what the thread needs of it."""


class ClientGone(ConnectionError):
    """The client went away while its request was read or answered."""


def from_wsgi(app: WsgiApp, threads: int = THREADS) -> App:
    """An ASGI 3 app. Raises ConfigError when a2wsgi is not installed."""
    try:
        from a2wsgi import WSGIMiddleware
    except ImportError as error:
        raise ConfigError("WSGI apps need a2wsgi, which is not installed", "pip install 'gapless[wsgi]'") from error
    return _Adapted(WSGIMiddleware(_in_thread(app), workers=threads))  # type: ignore[arg-type]


class _Adapted:
    """ASGI: the request's exchange goes to the thread by its scope."""

    def __init__(self, adapter: App) -> None:
        self._adapter = adapter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._adapter(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        try:
            await self._adapter({**scope, _KEY: exchange}, exchange.receive, exchange.send)
        except ClientGone:
            return
        finally:
            exchange.end()


class _Exchange:
    """A request as the loop and the thread share it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = False
        self._exchange = Exchange(receive, send)

    @property
    def gone(self) -> bool:
        """Nobody listens to what the thread has yet to say."""
        return self.ended or self._exchange.gone

    async def receive(self) -> Message:
        """The next part of the body. Raises ClientGone, where a2wsgi would take what came for the whole."""
        message = await self._exchange.receive()
        if message["type"] == DISCONNECT:
            raise ClientGone("the client went away before its request was complete")
        return message

    async def send(self, message: Message) -> None:
        """Never raises for a client that went away: nobody would empty the queue that the thread then waits for."""
        try:
            await self._exchange.send(message)
        except OSError:
            self.ended = True

    def end(self) -> None:
        self.ended = True
        self._exchange.close()


class _Input(io.RawIOBase):
    """The request's body, read from a thread. A BufferedReader above it knows all about lines."""

    def __init__(self, exchange: _Exchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._left = memoryview(b"")
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._more and not self._left:
            message = asyncio.run_coroutine_threadsafe(self._exchange.receive(), self._exchange.loop).result()
            self._left, self._more = memoryview(message.get("body", b"")), message.get("more_body", False)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _in_thread(app: WsgiApp) -> WsgiApp:
    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        exchange: _Exchange = environ["asgi.scope"][_KEY]
        environ["wsgi.input"] = io.BufferedReader(_Input(exchange), 65_536)
        environ["wsgi.input_terminated"] = True  # a body without a length ends by itself
        environ["wsgi.errors"] = sys.stderr
        return _Chunks(app(environ, start_response), exchange)

    return call


class _Chunks:
    """What the app returned, until it ends or nobody listens any more."""

    def __init__(self, chunks: Iterable[bytes], exchange: _Exchange) -> None:
        self._chunks = chunks
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if self._exchange.gone:
                raise ClientGone("the client went away while it was answered")
            if chunk:
                yield chunk

    def close(self) -> None:
        getattr(self._chunks, "close", lambda: None)()
