"""A gRPC client's connection is sent away without losing a call: the relay, between two transports of paper."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless.server.connections.connections import Connections
from gapless.server.grpc.frames import ACK, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE_BYTES, frame, goaway, ping
from gapless.server.grpc.relay import OURS, YOUNG_S, Relay

SETTINGS = frame(4, 0, b"")
SAID = goaway() + ping(OURS)
UNDERSTOOD = frame(PING, ACK, OURS)


def ask(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, b"q", stream)


def answer(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, b"a", stream)


class Paper:
    """A transport."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 5) if name == "peername" else None


class Scene:
    def __init__(self) -> None:
        self.connections = Connections(75)
        self.client, self.server = Paper(), Paper()
        self.names: list[str] = []
        self.relay = Relay(self.connections, self.dial)

    async def dial(self, protocol: Any, name: str) -> None:
        self.names.append(name)
        protocol.connection_made(self.server)

    async def begin(self, *, age_s: float = 1.0) -> Scene:
        self.relay.connection_made(self.client)  # type: ignore[arg-type]
        self.relay.data_received(bytes(PREFACE_BYTES) + SETTINGS)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.relay.answered(SETTINGS)
        self.relay._made_at -= age_s
        self.client.written = self.server.written = b""
        return self


async def test_bytes_pass_both_ways_also_those_that_came_early() -> None:
    scene = Scene()
    scene.relay.connection_made(scene.client)  # type: ignore[arg-type]
    scene.relay.data_received(b"early")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert scene.server.written == b"early"
    assert scene.names == ["ipv4:127.0.0.1:5"]
    assert scene.connections.connections == {scene.relay}
    scene.relay.connection_lost(None)
    assert scene.server.closed
    assert not scene.connections.connections


async def test_an_idle_client_is_told_and_closed_when_it_has_understood() -> None:
    scene = await Scene().begin()
    scene.relay.retire()
    scene.relay.retire()
    assert scene.client.written == SAID
    assert not scene.client.closed
    scene.relay.data_received(UNDERSTOOD)
    assert scene.client.closed


async def test_calls_that_cross_the_word_on_the_way_are_answered() -> None:
    scene = await Scene().begin()
    scene.relay.data_received(ask(1))
    scene.relay.retire()
    scene.relay.data_received(ask(3) + UNDERSTOOD)
    assert scene.relay.busy
    scene.relay.answered(answer(1))
    assert not scene.client.closed
    scene.relay.answered(answer(3))
    assert scene.client.closed
    assert scene.client.written == SAID + answer(1) + answer(3)
    assert scene.server.written == ask(1) + ask(3) + UNDERSTOOD


async def test_the_word_is_put_between_two_frames() -> None:
    scene = await Scene().begin()
    scene.relay.data_received(ask(1))
    message = frame(0, 0, b"a long message", 1)
    scene.relay.answered(message[:12])
    scene.relay.retire()
    assert scene.client.written == message[:12]
    scene.relay.answered(message[12:] + answer(1))
    assert scene.client.written == message + SAID + answer(1)


async def test_a_connection_that_has_just_been_made_may_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = await Scene().begin(age_s=0)
    scene.relay.retire()
    assert scene.client.written == b""
    scene.relay.data_received(ask(1))
    assert scene.client.written == SAID


async def test_a_young_connection_without_a_call_is_told_a_little_later() -> None:
    scene = await Scene().begin(age_s=YOUNG_S - 0.001)
    scene.relay.retire()
    await asyncio.sleep(0.01)
    assert scene.client.written == SAID


async def test_a_slow_reader_slows_the_other_side() -> None:
    scene = await Scene().begin()
    scene.relay.pause_writing()
    assert not scene.server.reading
    scene.relay.resume_writing()
    assert scene.server.reading


async def test_a_cancelled_call_does_not_hold_the_connection() -> None:
    scene = await Scene().begin()
    scene.relay.data_received(ask(1) + frame(3, 0, bytes(4), 1))
    assert not scene.relay.busy


async def test_a_server_that_is_not_there_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def nobody(protocol: Any, name: str) -> None:
        raise ConnectionRefusedError("gone")

    client = Paper()
    relay = Relay(Connections(75), nobody)
    relay.connection_made(client)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert client.closed
    assert "cannot be reached: gone" in caplog.text
