"""The hand-over's words, and the channel that carries them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.server.handover import handover
from gapless.server.handover.handover import (
    MAX_FDS,
    PIECE_BYTES,
    VERSION,
    Ack,
    Channel,
    Commit,
    Failed,
    Fds,
    Final,
    HandoverBroken,
    Hello,
    Message,
    Noise,
    Prepared,
    Tell,
    check_spoken,
    decode,
    encode,
    piece,
)
from gapless.server.handover.listener import check_listener, listener_name
from gapless.server.handover.pair import pair

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.integers(-(2**50), 2**50) | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=8
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.integers(1, 99_999), TEXT),
    st.builds(Fds, st.lists(TEXT, max_size=4), st.dictionaries(TEXT, JSON, max_size=4)),
    st.builds(Ack, st.lists(TEXT, max_size=4)),
    st.builds(Prepared, st.floats(0, 1e6)),
    st.just(Commit()),
    st.builds(Failed, TEXT, st.integers(0, 255), st.lists(TEXT, max_size=4)),
    st.builds(Tell, st.integers(0, 99), TEXT, JSON),
    st.builds(Final, st.lists(JSON, max_size=4)),
)


@contextmanager
def channels() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = pair()
    with closing(Channel(ours)) as left, closing(Channel(theirs)) as right:
        yield left, right


@contextmanager
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A peer that writes whatever it likes."""
    ours, theirs = pair()
    with ours, closing(Channel(theirs)) as channel:
        yield ours, channel


@settings(deadline=None)
@given(MESSAGES)
def test_a_message_arrives_as_it_was(message: Message) -> None:
    content = b"".join(piece(packet).content for packet in encode(message))
    assert decode(content) == message
    assert type(decode(content)) is type(message)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode(b'{"kind":"PREPARED","took_s":1.5,"mood":"good"}') == Prepared(1.5)


def test_messages_of_a_later_version_are_ignored_by_name() -> None:
    assert decode(b'{"kind":"SING","song":1}') == Noise("SING")


def test_who_begins_to_read_in_the_middle_of_a_message_begins_with_the_next_one() -> None:
    with raw() as (peer, channel), open(os.devnull) as file:
        socket.send_fds(peer, [b"G\x01\x01rest of some"], [file.fileno()])
        peer.send(b"G\x01\x00 message")
        peer.send(encode(Prepared(1.5))[0])
        received = channel.receive()
        assert received is not None
        assert (received.message, received.fds) == (Prepared(1.5), [])


def test_a_message_that_its_sender_never_finished_is_dropped_with_its_descriptors() -> None:
    with raw() as (peer, channel), open(os.devnull) as file:
        socket.send_fds(peer, [b'G\x01\x03{"kind":'], [file.fileno()])
        assert channel.receive() is None
        before = len(os.listdir("/proc/self/fd"))
        peer.send(encode(Commit())[0])
        received = channel.receive()
        assert received is not None
        assert (received.message, received.fds) == (Commit(), [])
        assert len(os.listdir("/proc/self/fd")) == before - 1


@pytest.mark.parametrize(("oldest", "newest"), [(1, 1), (1, 9), (0, 1)])
def test_versions_that_overlap_can_speak(oldest: int, newest: int) -> None:
    check_spoken(oldest, newest, "worker 7")


def test_versions_that_do_not_overlap_are_named() -> None:
    with pytest.raises(HandoverBroken, match=r"worker 7 speaks versions 2 to 3 .* this one 1 to 1"):
        check_spoken(2, 3, "worker 7")


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b'{"kind":"ACK"}', b"{", b'{"kind":[]}'])
def test_what_is_no_message_is_named(text: bytes) -> None:
    with pytest.raises(HandoverBroken, match="not a hand-over message"):
        decode(text)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_packet_of_another_protocol_gets_through(packet: bytes) -> None:
    if packet[:2] != bytes((ord("G"), VERSION)):
        with pytest.raises(HandoverBroken):
            piece(packet)


def test_another_version_is_refused_with_both_numbers() -> None:
    with raw() as (peer, channel):
        peer.send(b"G\x09\x00{}")
        with pytest.raises(HandoverBroken, match=f"speaks version 9 .* this one {VERSION}"):
            channel.receive()


def test_a_message_larger_than_a_packet_goes_in_pieces_and_keeps_its_descriptors() -> None:
    with channels() as (left, right), open(os.devnull) as file:
        left.send(Fds(["stdout"], {"big": "x" * (3 * PIECE_BYTES)}), [file.fileno()])
        received = right.receive()
        assert received is not None
        (fd,) = received.fds
        assert isinstance(received.message, Fds)
        assert len(received.message.task["big"]) == 3 * PIECE_BYTES
        assert os.fstat(fd).st_ino == os.fstat(file.fileno()).st_ino
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_full_channel_keeps_the_rest_until_it_is_flushed() -> None:
    ours, theirs = pair()
    calls: list[int] = []
    with closing(Channel(ours, lambda: calls.append(1))) as left, closing(Channel(theirs)) as right:
        bodies = [["x" * 1000 * n] for n in range(200)]
        for body in bodies:
            left.send(Final(body))
        assert calls
        assert left.congested
        heard: list[list[str]] = []
        while len(heard) < len(bodies):
            while received := right.receive():
                assert isinstance(received.message, Final)
                heard.append(received.message.samples)
            left.flush()
        assert heard == bodies
        assert not left.congested


def test_the_kernel_names_the_sender() -> None:
    with channels() as (left, right):
        left.send(Commit())
        received = right.receive()
        assert received is not None
        assert received.pid == os.getpid()


def test_another_users_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with channels() as (left, right):
        left.send(Commit())
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(HandoverBroken, match="is not allowed"):
            right.receive()


def test_the_end_of_the_stream_is_an_eof_error_and_writing_into_it_is_none() -> None:
    with channels() as (left, right):
        right.close()
        left.send(Commit())
        with pytest.raises(EOFError):
            left.receive()


def test_waiting_has_a_limit() -> None:
    with channels() as (left, _), pytest.raises(TimeoutError):
        left.wait(0.001)


def test_a_message_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "MESSAGE_BYTES", 100)
    with raw() as (peer, channel):
        peer.send(bytes((ord("G"), VERSION, 3)) + b"x" * 200)
        with pytest.raises(HandoverBroken, match="no end"):
            channel.receive()


def test_descriptors_of_a_message_that_never_ended_are_closed() -> None:
    with raw() as (peer, channel), open(os.devnull) as file:
        before = set(os.listdir("/proc/self/fd"))
        socket.send_fds(peer, [bytes((ord("G"), VERSION, 3)) + b"{"], [file.fileno()])
        assert channel.receive() is None
        assert set(os.listdir("/proc/self/fd")) > before
        channel.close()
        assert len(os.listdir("/proc/self/fd")) < len(before)


def test_too_many_descriptors_are_an_error() -> None:
    with channels() as (left, _), pytest.raises(HandoverBroken, match="cannot be handed over at once"):
        left.send(Commit(), [0] * (MAX_FDS + 1))


def test_a_listener_is_checked_by_what_it_is_not_by_what_it_is_called() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as idle:
        name = listener_name(listener)
        with check_listener(name, os.dup(listener.fileno())) as found:
            assert found.getsockname() == listener.getsockname()
        for fd, called, complaint in (
            (os.dup(listener.fileno()), "listen:('127.0.0.1', 1)", "was handed over as"),
            (os.dup(idle.fileno()), listener_name(idle), "listening: False"),
            (os.open(os.devnull, os.O_RDONLY), name, "is no socket"),
        ):
            with pytest.raises(HandoverBroken, match=complaint):
                check_listener(called, fd)
            os.close(fd)


def test_checking_a_listener_leaves_o_nonblock_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with check_listener(listener_name(listener), os.dup(listener.fileno())) as found:
            assert not os.get_blocking(listener.fileno())
            with pytest.raises(BlockingIOError):
                found.accept()


async def test_the_channel_works_with_a_loop() -> None:
    heard: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    with channels() as (left, right):

        def read() -> None:
            received = right.receive()
            assert received is not None
            heard.set_result(received.message)

        asyncio.get_running_loop().add_reader(right.fileno(), read)
        left.send(Prepared(0.5))
        assert await heard == Prepared(0.5)
        asyncio.get_running_loop().remove_reader(right.fileno())
