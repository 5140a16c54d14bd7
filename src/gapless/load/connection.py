"""One keep-alive connection: a request at a time, nothing sent twice, every ending told apart."""

from __future__ import annotations

import asyncio
import select
from typing import cast

from gapless.load.cause import Answer, Cause, Loss
from gapless.load.reader import Reader


class Connection(asyncio.Protocol):
    """Made by `loop.create_connection(Connection, …)`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._waiter: asyncio.Future[Answer | Loss] | None = None
        self._reusable = True
        self._gone: asyncio.Future[None] | None = None

    async def ask(self, request: bytes, reader: Reader) -> Answer | Loss:
        """Send the bytes and wait for what the reader makes of the answer. Cancelling it closes the connection."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return Loss(Cause.RESET, "closed before the request was sent")
        self._reader = reader
        self._waiter = asyncio.get_running_loop().create_future()
        transport.write(request)
        try:
            outcome = await self._waiter
        except asyncio.CancelledError:
            self._reusable = False
            raise
        finally:
            self._reader = self._waiter = None
        self._reusable = isinstance(outcome, Answer) and outcome.keep_alive
        return outcome

    def usable(self) -> bool:
        """Whether another request may be sent. Looks into the socket: bytes or an end that the loop has not read yet
        mean that the server closed it while it was idle, and nothing is lost by taking another one."""
        if self._transport is None or self._transport.is_closing() or not self._reusable:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    async def close(self) -> None:
        """Returns once the socket is closed."""
        if self._transport is not None:
            self._transport.abort()
        if self._gone is not None:
            await self._gone

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, but not the class
        self._gone = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            self._reusable = False
        elif (outcome := self._reader.feed(data)) is not None:
            self._finish(outcome)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reusable = False
        if self._reader is not None:
            self._finish(self._reader.end(exc))
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _finish(self, outcome: Answer | Loss) -> None:
        self._reader = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)
