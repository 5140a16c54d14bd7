"""The zone on UDP and TCP: a thin loop that moves packets. Answers are made elsewhere, at once and from memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from gapless.api.dns.answer import Answers
from gapless.api.dns.lookup import Limits, Lookup, Zone
from gapless.api.dns.wire import reply
from gapless.core.errors import ConfigError
from gapless.core.model import Address
from gapless.core.ports import World

_log = logging.getLogger("gapless.dns")

LENGTH = 2
"""Bytes in front of each message over TCP that say how long it is (RFC 1035, 4.2.2)."""

DEFAULT_LIMITS = Limits()

Reply = Callable[[bytes, bool], bytes | None]
"""A packet, and whether it came over a stream, to its answer; None: it gets none."""


@asynccontextmanager
async def listening(
    lookup: Lookup, zone: Zone, at: Address, world: World, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[Address]:
    """Answer for the zone over UDP and TCP until the block ends. Port 0 takes a free one; the address with its port is
    what the block gets. Raises ConfigError when the address cannot be had, or the zone's name is none."""
    answered = guarded(_reply(_answers(lookup, zone, world)))
    connections = Connections(answered, limits, world)
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(connections.accept, at.host, at.port)
        port = server.sockets[0].getsockname()[1]
    except OSError as error:
        raise _not_to_be_had(at, "TCP", error) from error
    try:
        packets, _ = await loop.create_datagram_endpoint(lambda: Packets(answered, limits), (at.host, port))
    except OSError as error:
        server.close()
        raise _not_to_be_had(at, "UDP", error) from error
    try:
        yield Address(host=at.host, port=port)
    finally:
        packets.close()
        server.close()
        connections.close()


def _answers(lookup: Lookup, zone: Zone, world: World) -> Answers:
    try:
        return Answers(lookup, zone, world.random)
    except ValueError as error:
        raise ConfigError(
            f"the zone's name: {error}", "Write labels with dots between them, for instance consul."
        ) from error


def _reply(answers: Answers) -> Reply:
    return lambda packet, stream: reply(answers, packet, payload=None if stream else answers.zone.payload)


def _not_to_be_had(at: Address, what: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"DNS cannot listen at {at} over {what}: {error.strerror or error}",
        "Name another address; ports below 1024 need a privilege (for port 53, forward it to this one).",
    )


def guarded(unsafe: Reply) -> Reply:
    """What goes wrong with one question is told, and costs nobody else an answer; who asked will ask again."""

    def answered(packet: bytes, stream: bool) -> bytes | None:
        try:
            return unsafe(packet, stream)
        except Exception:  # noqa: BLE001 one packet must not end the listener
            _log.exception("a question was not answered; its packet: %s", packet[:512].hex())
            return None

    return answered


class Packets(asyncio.DatagramProtocol):
    """UDP: one packet in, one out."""

    def __init__(self, reply: Reply, limits: Limits) -> None:
        self._reply, self._limits = reply, limits
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > self._limits.backlog:
            return
        answer = self._reply(data, False)
        if answer is not None:
            transport.sendto(answer, addr)

    def error_received(self, exc: Exception) -> None:
        _log.debug("an answer did not arrive: %s", exc)


class Connections:
    """The open connections, that idle longest first."""

    def __init__(self, reply: Reply, limits: Limits, world: World) -> None:
        self._reply, self.limits, self.world = reply, limits, world
        self._open: dict[Stream, None] = {}

    @property
    def count(self) -> int:
        return len(self._open)

    def accept(self) -> Stream:
        return Stream(self._reply, self)

    def opened(self, stream: Stream) -> None:
        if len(self._open) >= self.limits.connections:
            next(iter(self._open)).abort()
        self._open[stream] = None

    def used(self, stream: Stream) -> None:
        """It asked something: the others come first when room is needed."""
        del self._open[stream]
        self._open[stream] = None

    def closed(self, stream: Stream) -> None:
        self._open.pop(stream, None)

    def close(self) -> None:
        for stream in list(self._open):
            stream.abort()


class Stream(asyncio.Protocol):
    """TCP: any number of questions, each with its length in front, answered in order (RFC 7766)."""

    def __init__(self, reply: Reply, connections: Connections) -> None:
        self._reply, self._connections = reply, connections
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._paused = False
        self._cancel: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.opened(self)
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._answer()

    def _answer(self) -> None:
        """Everything that has arrived whole, unless the client does not take its answers."""
        while (transport := self._transport) and not self._paused and (packet := self._next()) is not None:
            answer = self._reply(packet, True)
            if answer is None:
                self.abort()
                return
            self._connections.used(self)
            self._wait()
            transport.write(len(answer).to_bytes(LENGTH, "big") + answer)

    def _next(self) -> bytes | None:
        length = int.from_bytes(self._buffer[:LENGTH], "big")
        if len(self._buffer) < LENGTH + length or len(self._buffer) < LENGTH:
            return None
        packet = bytes(self._buffer[LENGTH : LENGTH + length])
        del self._buffer[: LENGTH + length]
        return packet

    def pause_writing(self) -> None:
        self._paused = True
        if self._transport:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._answer()
        if self._transport and not self._paused:
            self._transport.resume_reading()

    def _wait(self) -> None:
        """Only whole questions buy time: a byte now and then would hold the connection for ever."""
        self._cancel()
        self._cancel = self._connections.world.after(self._connections.limits.idle_s, self.abort)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._connections.closed(self)
        self._transport = None

    def abort(self) -> None:
        """Close without ceremony: what the client has not asked for whole, or does not take, is lost."""
        self._connections.closed(self)
        transport, self._transport = self._transport, None
        if transport:
            transport.abort()
