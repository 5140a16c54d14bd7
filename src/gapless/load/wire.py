"""How requests travel: over HTTP/1.1 or HTTP/2."""

from __future__ import annotations

import asyncio
import sys
from typing import Protocol

from gapless.load.cause import Answer, Loss
from gapless.load.connection import Connection
from gapless.load.connection2 import Connection2
from gapless.load.reader import KEPT_BYTES, Reader
from gapless.load.request import Request, Template
from gapless.load.spec import LoadSpec, Target


class Line(Protocol):
    """A connection, whatever it speaks."""

    async def ask(self, request: Request) -> Answer | Loss:
        """Send it once, and wait for the whole answer. Cancelling it ends the connection."""
        ...

    def usable(self) -> bool:
        """Whether another request may be sent."""
        ...

    async def close(self) -> None:
        """Returns once the socket is closed."""
        ...


class Line1:
    def __init__(self, connection: Connection, template: Template, *, head_only: bool, whole: bool) -> None:
        self._connection, self._template = connection, template
        self._head_only, self._whole = head_only, whole
        self.usable, self.close = connection.usable, connection.close

    async def ask(self, request: Request) -> Answer | Loss:
        reader = Reader(head_only=self._head_only, whole=self._whole)
        return await self._connection.ask(self._template.render(request), reader)


class Line2:
    def __init__(self, connection: Connection2, template: Template) -> None:
        self._connection, self._template = connection, template
        self.usable, self.close = connection.usable, connection.close

    async def ask(self, request: Request) -> Answer | Loss:
        return await self._connection.ask(*self._template.fields(request))


async def connect(spec: LoadSpec, target: Target, template: Template) -> Line:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    whole = spec.expect.body is not None
    if spec.http2:
        kept = sys.maxsize if whole else KEPT_BYTES
        _, two = await loop.create_connection(lambda: Connection2(kept), target.host, target.port)
        return Line2(two, template)
    _, one = await loop.create_connection(Connection, target.host, target.port)
    return Line1(one, template, head_only=spec.method == "HEAD", whole=whole)
