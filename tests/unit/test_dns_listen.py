"""The listener's limits, on pretended connections and a clock that the test holds."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gapless.api.dns.listen import Connections, Packets, Stream, guarded
from gapless.api.dns.lookup import Limits
from gapless.testing import FakeWorld


class Transport:
    """Remembers what was done to it."""

    def __init__(self, backlog: int = 0) -> None:
        self.written = b""
        self.sent: list[tuple[bytes, Any]] = []
        self.aborted = False
        self.reading = True
        self._backlog = backlog

    def write(self, data: bytes) -> None:
        self.written += data

    def sendto(self, data: bytes, addr: Any) -> None:
        self.sent.append((data, addr))

    def get_write_buffer_size(self) -> int:
        return self._backlog

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def upper(packet: bytes, stream: bool) -> bytes | None:
    return packet.upper() if packet else None


def framed(*packets: bytes) -> bytes:
    return b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets)


class Rig:
    def __init__(self, **limits: Any) -> None:
        self.world = FakeWorld()
        self.connections = Connections(upper, Limits(**limits), self.world)

    def connect(self) -> tuple[Stream, Transport]:
        stream, transport = self.connections.accept(), Transport()
        stream.connection_made(transport)  # type: ignore[arg-type]
        return stream, transport


def test_questions_are_answered_in_order_however_they_are_cut() -> None:
    stream, transport = Rig().connect()
    for byte in framed(b"one", b"two") + b"\0\5thr":
        stream.data_received(bytes((byte,)))
    assert transport.written == framed(b"ONE", b"TWO")
    stream.data_received(b"ee" + framed(b"four"))
    assert transport.written == framed(b"ONE", b"TWO", b"THREE", b"FOUR")


async def test_only_whole_questions_buy_time() -> None:
    rig = Rig(idle_s=10.0)
    busy, slow = rig.connect(), rig.connect()
    for _ in range(3):
        await rig.world.advance(4.0)
        busy[0].data_received(framed(b"x"))
        slow[0].data_received(b"\1")
    assert (busy[1].aborted, slow[1].aborted) == (False, True)
    await rig.world.advance(10.0)
    assert busy[1].aborted
    assert rig.world.pending == 0


def test_above_the_limit_the_one_idle_longest_makes_room() -> None:
    rig = Rig(connections=2)
    (first, one), (_, two) = rig.connect(), rig.connect()
    first.data_received(framed(b"x"))
    _, three = rig.connect()
    assert (one.aborted, two.aborted, three.aborted) == (False, True, False)


def test_a_client_that_does_not_take_its_answers_is_no_longer_read() -> None:
    stream, transport = Rig().connect()
    stream.pause_writing()
    stream.data_received(framed(b"one"))
    assert (transport.reading, transport.written) == (False, b"")
    stream.resume_writing()
    assert (transport.reading, transport.written) == (True, framed(b"ONE"))


def test_what_is_no_question_ends_the_connection() -> None:
    stream, transport = Rig().connect()
    stream.data_received(framed(b"", b"one"))
    assert transport.aborted
    stream.data_received(framed(b"two"))
    assert transport.written == b""


def test_the_end_closes_every_connection() -> None:
    rig = Rig()
    transports = [rig.connect()[1] for _ in range(3)]
    rig.connections.close()
    assert all(transport.aborted for transport in transports)
    assert rig.connections.count == 0


@pytest.mark.parametrize(("backlog", "sent"), [(0, [(b"ONE", "me")]), (2_000, [])])
def test_answers_that_the_kernel_does_not_take_are_dropped(backlog: int, sent: list[Any]) -> None:
    packets, transport = Packets(upper, Limits(backlog=1_000)), Transport(backlog)
    packets.connection_made(transport)  # type: ignore[arg-type]
    packets.datagram_received(b"one", "me")
    packets.datagram_received(b"", "me")
    assert transport.sent == sent


def test_a_question_that_fails_is_told_and_the_next_one_answered(caplog: pytest.LogCaptureFixture) -> None:
    def fails(packet: bytes, stream: bool) -> bytes | None:
        if packet == b"bad":
            raise RuntimeError("no such luck")
        return packet

    answered = guarded(fails)
    with caplog.at_level(logging.ERROR):
        assert answered(b"bad", False) is None
    assert "626164" in caplog.text
    assert answered(b"good", False) == b"good"
