"""A slow, an endless and a greedy client beside an honest one: each meets its limit, the honest one notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gapless.api.consul.agent_self import Agent
from gapless.api.consul.compose import consul_api
from gapless.api.consul.watches import WatchLimits
from gapless.core.world import RealWorld
from gapless.server.embedded import serving
from gapless.server.http.client_limits import ClientLimits
from gapless.store.memory import MemoryStore

PATIENCE_S = 20.0
LIMITS = ClientLimits(connections=60, per_client=40)
SHORT = LIMITS._replace(header_s=0.3, body_s=0.3)
WATCHES = WatchLimits(per_client=20, in_all=30)


@asynccontextmanager
async def registry(limits: ClientLimits) -> AsyncIterator[int]:
    """Two loopback addresses stand for two clients."""
    world = RealWorld()
    store = MemoryStore(world)
    async with (
        consul_api(store, world, Agent(node="n0"), limits=WATCHES) as app,
        serving(app, ["0.0.0.0:0"], limits=limits) as (shown,),
    ):
        yield int(shown.rpartition(":")[2])
        app.release()
    await store.close()


class Wire:
    """One connection from one of the loopback addresses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, address: str) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, method: str, target: str, body: bytes = b"") -> None:
        self.send(f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await asyncio.wait_for(self.reader.readexactly(length), PATIENCE_S)
        return int(head.split(b" ")[1]), head, body

    async def ended(self) -> None:
        """The registry closes it."""
        while await asyncio.wait_for(self.reader.read(65_536), PATIENCE_S):
            continue

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def honest(port: int, stop: asyncio.Event) -> int:
    """Writes and reads until it is told to stop; raises unless all of it works. Returns how often."""
    wire = await Wire.open(port, "127.0.0.1")
    rounds = 0
    while not stop.is_set():
        wire.ask("PUT", "/v1/kv/honest", b"%d" % rounds)
        assert (await wire.answer())[::2] == (200, b"true")
        wire.ask("GET", "/v1/kv/honest?raw")
        assert (await wire.answer())[::2] == (200, b"%d" % rounds)
        rounds += 1
        await asyncio.sleep(0)
    await wire.close()
    return rounds


@asynccontextmanager
async def beside_an_honest_one(limits: ClientLimits = LIMITS) -> AsyncIterator[int]:
    async with registry(limits) as port:
        stop = asyncio.Event()
        work = asyncio.create_task(honest(port, stop))
        try:
            yield port
        finally:
            stop.set()
            assert await work > 0


async def test_slow_ones_are_sent_away() -> None:
    async with beside_an_honest_one(SHORT) as port:
        in_the_head, in_the_body = [await Wire.open(port, "127.0.0.2") for _ in range(2)]
        in_the_head.send(b"GET /v1/kv/a HTTP/1.1\r\nhost")
        in_the_body.send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
        for slow in (in_the_head, in_the_body):
            assert (await slow.answer())[0] == 408
            await slow.ended()
            await slow.close()


async def test_endless_ones_are_cut_off() -> None:
    async with beside_an_honest_one() as port:
        announced, chunked, header = [await Wire.open(port, "127.0.0.2") for _ in range(3)]
        announced.send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n")
        assert (await announced.answer())[::2] == (
            413,
            b"Request body(999999999 bytes) too large, max size: 524288 bytes.",
        )
        chunked.send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(9):
            chunked.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        assert (await chunked.answer())[::2] == (413, b"Request body too large, max size: 524288 bytes.")
        header.send(b"GET /v1/kv/a HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 600_000)
        assert (await header.answer())[0] == 431
        for endless in (announced, chunked, header):
            await endless.close()


async def test_a_greedy_one_gets_its_share_of_watches() -> None:
    async with beside_an_honest_one() as port:
        greedy = [await Wire.open(port, "127.0.0.2") for _ in range(25)]
        for wire in greedy:
            wire.ask("GET", "/v1/kv/never?index=100000&wait=60s")
        answered = [asyncio.create_task(wire.answer()) for wire in greedy]
        done, waiting = await asyncio.wait(answered, timeout=1.0)
        assert [task.result()[0] for task in done] == [429] * 5
        assert b"retry-after: 1" in next(iter(done)).result()[1]
        other = await Wire.open(port, "127.0.0.3")
        other.ask("PUT", "/v1/kv/mine", b"1")
        assert (await other.answer())[2] == b"true"
        other.ask("GET", "/v1/kv/mine?index=1&wait=60s")
        assert json.loads((await other.answer())[2])[0]["Value"] == "MQ=="
        for wire in (*greedy, other):
            await wire.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, asyncio.IncompleteReadError) for result in results)
        # Those who have gone hold nothing any more.
        again = await Wire.open(port, "127.0.0.2")
        again.ask("GET", "/v1/kv/never?index=100000&wait=10ms")
        assert (await again.answer())[0] == 404
        await again.close()


async def test_a_greedy_one_gets_its_share_of_connections() -> None:
    async with beside_an_honest_one() as port:
        held = [await Wire.open(port, "127.0.0.2") for _ in range(40)]
        one_more = await Wire.open(port, "127.0.0.2")
        assert (await one_more.answer())[0] == 429
        await one_more.ended()
        other = await Wire.open(port, "127.0.0.3")
        other.ask("GET", "/v1/status/leader")
        assert (await other.answer())[0] == 200
        await held[0].close()
        for _ in range(100):  # until the registry has seen that it is gone
            again = await Wire.open(port, "127.0.0.2")
            again.ask("GET", "/v1/status/leader")
            status = (await again.answer())[0]
            await again.close()
            if status == 200:
                break
            await asyncio.sleep(0.01)
        assert status == 200
        for wire in (*held, one_more, other):
            await wire.close()


async def test_regular_expressions_that_never_end_elsewhere() -> None:
    async with beside_an_honest_one() as port:
        evil = await Wire.open(port, "127.0.0.2")
        evil.ask("PUT", "/v1/event/fire/x?node=(a*)*$", b"")
        assert (await evil.answer())[0] == 200
        service = json.dumps({"Name": "a" * 5_000 + "!"}).encode()
        evil.ask("PUT", "/v1/agent/service/register", service)
        assert (await evil.answer())[0] == 200
        evil.ask("GET", "/v1/agent/services?filter=Service+matches+%22%5E(a%2B)%2B%24%22")
        assert (await evil.answer())[::2] == (200, b"{}")
        await evil.close()
