"""The directory that callers read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gapless.core.codec import encode
from gapless.core.model import BUCKETS, Address, Endpoint, RouteTable, ServiceTable, Split
from gapless.discovery.directory import Directory
from gapless.discovery.lasting import LONGEST_BACKOFF_S, backoff
from gapless.testing import FakeWorld


def endpoint(port: int) -> Endpoint:
    return Endpoint(instance=f"i{port}", release="1", address=Address(host="127.0.0.1", port=port))


def table(version: int, *ports: int) -> RouteTable:
    split = Split(service="stock", stable="1", weights=(("1", BUCKETS),))
    places = tuple(endpoint(port) for port in ports)
    return RouteTable(version=version, services=(ServiceTable(service="stock", split=split, endpoints=places),))


class Streams:
    """A control plane that comes and goes by a script of streams; the last one stays open."""

    def __init__(self, world: FakeWorld, *scripts: list[bytes] | OSError) -> None:
        self.world = world
        self.scripts = list(scripts)
        self.opened: list[float] = []

    async def __call__(self) -> AsyncGenerator[bytes]:
        self.opened.append(self.world.now())
        script = self.scripts.pop(0)
        if isinstance(script, OSError):
            raise script
        for document in script:
            yield document
        if not self.scripts:
            await asyncio.Event().wait()
        raise EOFError


async def test_the_last_known_stays_while_control_is_gone() -> None:
    world = FakeWorld()
    gone = OSError("nobody there")
    streams = Streams(world, [encode(table(1, 1))], gone, gone, [b"{", encode(table(2, 2))])
    directory = Directory(world, stream=streams)
    await directory.start()
    await directory.start()
    await world.settle()
    assert directory.table.version == 1
    await world.advance(0.2)
    assert directory.table.version == 1
    await world.advance(1)
    assert directory.table.version == 2
    assert len(streams.opened) == 4
    await directory.aclose()
    assert world.pending == 0


async def test_the_first_value_comes_from_the_file(tmp_path: Path) -> None:
    world = FakeWorld()
    directory = Directory.of_control(str(tmp_path), "", world)
    await directory.start()
    await world.settle()
    assert directory.service("stock") is None
    await directory.aclose()
    (tmp_path / "discovery.json").write_bytes(encode(table(7, 1)))
    await directory.start()
    assert (await directory.wait_for("stock")).endpoints == (endpoint(1),)
    await directory.aclose()


async def test_waiting_ends_with_the_first_endpoint() -> None:
    directory = Directory(FakeWorld())
    waiting = asyncio.ensure_future(directory.wait_for("stock"))
    await asyncio.sleep(0)
    directory.update(table(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    directory.update(table(2, 5))
    assert (await waiting).endpoints == (endpoint(5),)


def test_reconnects_are_spread_and_bounded() -> None:
    assert backoff(1, 0.0) == pytest.approx(0.05)
    assert backoff(50, 0.999) <= LONGEST_BACKOFF_S
