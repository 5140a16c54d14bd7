"""A client of a registry that may be killed at any moment; what it is told goes into a ledger (registry_ledger.py)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from registry_client import HEAD_END, INDEX, LENGTH, Answer, field, request
from registry_ledger import Ledger

ANSWER_S = 30.0
"""An answer that takes longer does not come any more."""
WAIT_S = 700.0
"""The same of a blocking query, which ends after 10 minutes and a sixteenth."""


class Down(Exception):
    """The registry has gone."""


class Wire:
    """A connection, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Wire:
        """Raises Down."""
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))
        except OSError as error:
            raise Down from error

    async def ask(self, method: str, path: str, body: Any = None, wait_s: float = ANSWER_S) -> Answer:
        """Raises Down; TimeoutError."""
        try:
            self._writer.write(request(method, path, body))
            async with asyncio.timeout(wait_s):
                head = await self._reader.readuntil(HEAD_END)
                return Answer(int(head[9:12]), head, await self._reader.readexactly(int(field(head, LENGTH))))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise Down from error

    def close(self) -> None:
        self._writer.transport.abort()


class Client:
    """Asks, and lets the ledger hear of it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.wire: Any = None
        self.asked = 0

    async def connect(self, port: int) -> None:
        self.wire = await Wire.to(port)

    async def write(self, path: str, body: Any = None, *, method: str = "PUT") -> bytes:
        """The answer to a write that nothing speaks against."""
        answer = await self.wire.ask(method, path, body)
        self.asked += 1
        if answer.status != 200:
            self.ledger.breach(f"{method} {path} was answered by {answer.status} {answer.body.decode()}")
        return bytes(answer.body)

    async def read(self, path: str, *, wait: bool = False) -> Any:
        """What is there; None for nothing. `wait`: for something newer than was seen."""
        since = self.ledger.index(path)
        asked = f"{path}{'&' if '?' in path else '?'}index={since}&wait=10m" if wait and since else path
        answer = await self.wire.ask("GET", asked, wait_s=WAIT_S if wait else ANSWER_S)
        self.asked += 1
        if answer.status not in (200, 404):
            self.ledger.breach(f"{asked} was answered by {answer.status} {answer.body.decode()}")
        elif INDEX in answer.head.lower():
            self.ledger.answered(path, since, answer.index, answer.body)
        return json.loads(answer.body) if answer.status == 200 else None
