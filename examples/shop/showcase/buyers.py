"""The customers: `gapless load` in a process of its own, so that drawing pictures here does not slow its clock."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import msgspec

from gapless.load import Record

USERS = 1000
TIMEOUT = "5s"
BODY = '{"item": "lamp", "quantity": 1}'


class Buyers:
    """Purchases at a fixed rate until `stop`. `records` has every one that has ended."""

    def __init__(self, listen: str, rate: float, connections: int, watch: Callable[[Record], None]) -> None:
        self.records: list[Record] = []
        self._command = [
            *("load", f"http://{listen}/orders", "--rate", f"{rate:g}", "--connections", str(connections)),
            *("--for", "24h", "--users", str(USERS), "--timeout", TIMEOUT, "--body", BODY),
            *("-H", "content-type: application/json", "-H", "idempotency-key: {uuid}"),
            *("--expect", "201", "--expect-body", '"confirmed"', "--json"),
        ]
        self._watch = watch
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Records come back through a pipe that the client takes for its log."""
        read, write = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gapless", *self._command, "--log", f"/dev/fd/{write}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=[write],
                start_new_session=True,
            )
        finally:
            os.close(write)
        self._reader = asyncio.create_task(self._read(read))

    async def stop(self) -> None:
        """No more purchases; returns when those under way have ended."""
        if self._process is None or self._reader is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
        await self._reader
        await self._process.wait()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _read(self, pipe: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
        )
        try:
            async for line in reader:
                record = msgspec.json.decode(line, type=Record)
                self.records.append(record)
                self._watch(record)
        finally:
            transport.close()
