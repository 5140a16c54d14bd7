"""A directory that is fed by an agent's HTTP API, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gapless.core.world import RealWorld
from gapless.discovery import directory as directories
from gapless.discovery.directory import Directory
from gapless.service.client import Client
from tests.integration.agent_kit import Agent
from tests.integration.test_client_sockets import answers, serving


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent() as agent:
        yield agent


@pytest.fixture
async def directory(agent: Agent) -> AsyncIterator[Directory]:
    made = Directory.at(agent.address, RealWorld())
    await made.start("stock")
    yield made
    await made.aclose()


def ports(directory: Directory) -> list[int]:
    table = directory.service("stock")
    return [each.address.port for each in table.endpoints] if table else []


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def test_changes_are_told_as_they_happen(agent: Agent, directory: Directory) -> None:
    agent.now(1, 2)
    await until(lambda: ports(directory) == [1, 2])
    await asyncio.sleep(0.3)
    asked = len(agent.asked)
    agent.now(2, 3)
    await until(lambda: ports(directory) == [2, 3])
    assert len(agent.asked) <= asked + 1
    assert agent.asked[-1].endswith("&index=12&wait=60s") or agent.asked[-1].endswith("&index=11&wait=60s")


async def test_a_restless_index_is_not_followed_at_full_speed(agent: Agent, directory: Directory) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(100):
        agent.now(1)
        await asyncio.sleep(0.01)
    assert len(agent.asked) < 30 * (loop.time() - began)


async def test_an_agent_that_was_killed_and_has_forgotten_is_believed_anew(agent: Agent, directory: Directory) -> None:
    agent.now(1, 2, index=900)
    await until(lambda: ports(directory) == [1, 2])
    await agent.kill()
    agent.now(3, index=4)
    await asyncio.sleep(0.2)
    assert ports(directory) == [1, 2]
    await agent.up()
    await until(lambda: ports(directory) == [3])
    agent.now(3, 4, index=5)
    await until(lambda: ports(directory) == [3, 4])


async def test_an_index_that_goes_back_begins_anew(agent: Agent, directory: Directory) -> None:
    agent.now(1, index=900)
    await until(lambda: ports(directory) == [1])
    agent.now(2, index=3)
    await until(lambda: ports(directory) == [2])
    agent.now(5, index=4)
    await until(lambda: ports(directory) == [5])


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops", "answered 500 oops"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 17\r\n\r\nPermission denied", "token"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not a list of instances"),
        (b"nonsense\r\n\r\n", "does not answer"),
    ],
)
async def test_a_bad_answer_is_told_once_and_survived(
    agent: Agent, directory: Directory, raw: bytes, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent.now(1)
    await until(lambda: ports(directory) == [1])
    agent.raw = raw
    agent.now(1)
    await until(lambda: complaint in caplog.text)
    assert ports(directory) == [1]
    agent.raw = None
    agent.now(1, 2)
    await until(lambda: ports(directory) == [1, 2])
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_client_by_an_address_outlives_registry_and_restart(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "DOUBT_S", 0.2)
    where = f"{agent.address}?cache={tmp_path}"
    async with serving(answers) as (port,):
        agent.now(port)
        async with Client("stock", discovery=where) as client:
            assert (await client.get("/")).content == b"ok"
            await until(lambda: (tmp_path / "stock.json").exists())
            await agent.kill()
            assert (await client.get("/")).content == b"ok"
        async with Client("stock", discovery=where) as client:
            assert (await client.get("/")).content == b"ok"
        monkeypatch.setenv("GAPLESS_DISCOVERY", where)
        async with Client("stock") as client:
            assert (await client.get("/")).content == b"ok"
