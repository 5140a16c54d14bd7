"""The gateway as its users steer it: WebSockets through a deploy, a restart of Envoy under load, a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.e2e.kit import System, lost, until

APP = '''\
"""Echoes over WebSockets, and answers who it is."""
NAME = {name!r}

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": NAME.encode()}})
    elif scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        while (message := await receive())["type"] == "websocket.receive":
            await send({{"type": "websocket.send", "text": NAME + ":" + message["text"]}})
'''


def source(system: System, name: str) -> Path:
    path = system.directory / name
    path.mkdir(exist_ok=True)
    (path / "web.py").write_text(APP.format(name=name))
    return path


@pytest.fixture
def system(short_dir: Path) -> Iterator[System]:
    found = System(short_dir, strategy="rolling")
    source(found, "v1")
    found.up()
    try:
        yield found
    finally:
        found.down()


async def echo(socket: ClientConnection, text: str) -> str:
    await socket.send(text)
    return str(await asyncio.wait_for(socket.recv(), 30))


async def test_websockets_are_sent_away_politely_by_a_deploy(system: System) -> None:
    url = system.url.replace("http", "ws")
    sockets = [await connect(url) for _ in range(6)]
    assert {await echo(socket, "a") for socket in sockets} == {"v1:a"}
    with system.load(rate=40):  # a release is judged by what it answers
        argv = ("deploy", "web", "--release", "v2", "--from", str(source(system, "v2")))
        deployed = asyncio.create_task(asyncio.to_thread(system.run, *argv))
        codes = await asyncio.wait_for(asyncio.gather(*(closed(socket) for socket in sockets)), 60)
        done = await deployed
    assert codes == [1012] * 6, "service restart: come again"
    assert done.returncode == 0, done.stderr
    async with connect(url) as again:
        assert await echo(again, "b") == "v2:b"


async def closed(socket: ClientConnection) -> int:
    """The code that the server closes with; 1006 is no word at all."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else 1006


def test_envoy_is_restarted_and_a_fault_comes_and_goes(system: System) -> None:
    before = system.json("gateway", "status")
    with system.load() as requests:
        done = system.json("gateway", "restart", "--why", "a test")
        assert (done["epoch"], done["leaving"], done["pid"] != before["pid"]) == (1, before["pid"], True)
        until(lambda: system.told("/v1/gateway")["settled"], "settled", system.output)
    assert not lost(requests)
    assert requests
    told = system.json("fault", "web", "--abort", "418", "--for", "2s", "--why", "game day")
    assert (told["service"], told["abort"]) == ("web", 418)
    until(lambda: system.json("fault") == [], "the fault's end", system.output)
    until(lambda: len([c for c in changes(system) if "fault" in c]) == 2, "its end in the change log", system.output)
    assert any("the gateway restarted" in change for change in changes(system))
    refused = system.run("fault", "web", "--delay", "soon")
    assert "not a duration" in refused.stderr
    assert "no service" in system.run("fault", "else", "--abort", "503").stderr


def changes(system: System) -> list[str]:
    return [change["what"] for change in system.json("changes")]
