"""Real processes that answer, to be killed under load; and what every way of calling them must survive."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from tests.integration.agent_kit import Agent
from tests.ports import free_port

HTTP = """
import os, sys, uvicorn
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    headers = dict(scope["headers"])
    told = [(b"pid", b"%d" % os.getpid()), (b"port", b"%d" % scope["client"][1])]
    told += [(b"saw-" + name, headers[name]) for name in (b"x-gapless-deadline-ms", b"traceparent") if name in headers]
    status = 503 if scope["path"] == "/busy" and sys.argv[2] == "busy" else 200
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": b"half ", "more_body": True})
    await send({"type": "http.response.body", "body": b"whole"})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off", timeout_keep_alive=60)
"""


class Said(NamedTuple):
    """Which process answered, and on which connection."""

    pid: int
    port: int


Call = Callable[[str], Awaitable[Said]]
"""Makes a call that may be repeated, under this key, and tells who answered."""


class Instances:
    """Processes by port."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._stack = AsyncExitStack()
        self.processes: dict[int, asyncio.subprocess.Process] = {}

    async def start(self, count: int, *arguments: str, port: int = 0) -> list[int]:
        """So many more; returns when they accept connections."""
        ports = [port or free_port("127.0.0.1") for _ in range(count)]
        for port in ports:
            self.processes[port] = await asyncio.create_subprocess_exec(
                sys.executable, "-c", self._code, str(port), *(arguments or ("",))
            )
        await asyncio.gather(*map(accepts, ports))
        return ports

    def pid(self, port: int) -> int:
        return self.processes[port].pid

    def kill(self, port: int) -> None:
        os.kill(self.pid(port), signal.SIGKILL)

    async def close(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self.processes.values()))


@asynccontextmanager
async def running(code: str) -> AsyncIterator[Instances]:
    instances = Instances(code)
    try:
        yield instances
    finally:
        await instances.close()


async def accepts(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return


async def survives(call: Call, instances: Instances, agent: Agent, callers: int = 8) -> None:
    """Under load an instance is added, one is killed that the registry goes on to list, and then the registry itself:
    no call fails, the new one gets its share, the dead one nothing more, and connections are kept."""
    old, victim, new = await instances.start(3)
    agent.now(old, victim)
    said: list[Said] = []
    failures: list[BaseException] = []
    steps = {
        150: lambda: agent.now(old, victim, new),
        400: lambda: instances.kill(victim),
        550: lambda: events.append(asyncio.create_task(agent.kill())),
    }
    events: list[asyncio.Task[None]] = []

    async def caller(number: int) -> None:
        for turn in range(100):
            try:
                said.append(await call(f"{number}-{turn}"))
            except Exception as error:  # noqa: BLE001 - counted, and shown by the assertion
                failures.append(error)
                said.append(Said(0, 0))
            if step := steps.pop(len(said), None):
                step()
            await asyncio.sleep(0.002)

    async with asyncio.timeout(60):
        await asyncio.gather(*(caller(number) for number in range(callers)))
        await asyncio.gather(*events)
    assert failures == []
    assert not steps
    assert len(said) == 100 * callers
    assert {each.pid for each in said} == {instances.pid(port) for port in (old, victim, new)}
    assert instances.pid(victim) not in {each.pid for each in said[-100:]}
    assert len({each for each in said if each.pid == instances.pid(old)}) <= 2 * callers
