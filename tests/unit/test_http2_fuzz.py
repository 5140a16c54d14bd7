"""Whatever bytes come, in whatever pieces: the same answers, and never a crash."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import hpack
from hyperframe.frame import SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from gapless.server.http.client_limits import ClientLimits
from gapless.server.http2.protocol import Phase
from gapless.server.http2.scan import CONTINUATION, DATA, HEADERS, PREFACE, RST_STREAM, WINDOW_UPDATE
from tests.unit.http2_kit import (
    GET,
    POST,
    Client,
    Fields,
    client,
    headers,
    hello,
    ping,
    raw,
    settings,
)

NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 7])
FLAGS = st.sampled_from([0x0, 0x1, 0x4, 0x5])


def plain(fields: Fields) -> bytes:
    """A block that leaves the compression's table alone, so that it means the same wherever it stands."""
    return b"".join(
        b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields if len(value) < 127
    )


BLOCKS = st.sampled_from(
    [plain(GET), plain(POST), plain(GET[:3]), plain([*POST, (b"content-length", b"4")]), plain([(b"x", b"y")]), b"\xff"]
)
FRAMES = st.one_of(
    st.builds(raw, st.sampled_from([HEADERS, CONTINUATION]), NUMBERS, BLOCKS, FLAGS),
    st.builds(raw, st.just(DATA), NUMBERS, st.binary(max_size=9), FLAGS),
    st.builds(raw, st.just(RST_STREAM), NUMBERS, st.just(bytes(4))),
    st.builds(raw, st.just(WINDOW_UPDATE), NUMBERS, st.sampled_from([bytes(4), b"\0\0\0\1", b"\x7f\xff\xff\xff"])),
    st.builds(settings, st.dictionaries(st.integers(1, 9), st.sampled_from([0, 1, 65_536, 2**31]), max_size=3)),
    st.builds(ping, st.binary(min_size=8, max_size=8)),
    st.builds(raw, st.integers(0, 12), NUMBERS, st.binary(max_size=12), st.integers(0, 255)),
)


async def answers(pieces: list[bytes]) -> tuple[Any, ...]:
    """What a client learns that sends these pieces, in the order that RFC 9113 promises: for each stream its own."""
    async with client(hello, ClientLimits(body_bytes=1000)) as one:
        for piece in pieces:
            if one.pipe.ended or one.pipe.closing:
                break
            one.protocol.data_received(piece)
            await one.settle()
        check(one)
        return told(one)


def told(one: Client) -> tuple[Any, ...]:
    kinds = [(frame.last_stream_id, frame.error_code) for frame in one.frames if type(frame).__name__ == "GoAwayFrame"]
    streams = {number: (one.outcome(number), one.body(number)) for number in (1, 3, 5, 7) if not kinds}
    return kinds, streams


def check(one: Client) -> None:
    """What holds after whatever."""
    protocol = one.protocol
    assert protocol._phase is not Phase.CLOSING or one.pipe.ended
    assert len(protocol._streams) <= 100
    assert all(not stream.gone for stream in protocol._streams.values())


def cut(whole: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(whole), *(one % (len(whole) + 1) for one in cuts)})
    return [whole[one:two] for one, two in itertools.pairwise(at)]


@given(st.lists(FRAMES, max_size=10), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_segmentation_gets_the_same_answers(frames: list[bytes], cuts: list[int]) -> None:
    """Frames apart from each other, so that only the pieces differ and not what the app had done meanwhile."""

    async def compare() -> None:
        by_frame = [piece for frame in frames for piece in cut(frame, cuts)]
        assert await answers(by_frame) == await answers(frames)

    asyncio.run(compare())


@given(st.lists(FRAMES, max_size=12), st.binary(max_size=60))
def test_random_frames_and_noise_never_raise(frames: list[bytes], noise: bytes) -> None:
    asyncio.run(answers([b"".join(frames) + noise]))


@given(st.binary(max_size=80))
def test_random_header_blocks_never_raise(block: bytes) -> None:
    asyncio.run(answers([headers(1, block, "END_HEADERS", "END_STREAM"), ping()]))


NAMES = st.binary(max_size=12)
VALUES = st.binary(max_size=12)


@given(st.lists(st.tuples(st.sampled_from([b":path", b":method", b"host", b"te", b"cookie"]) | NAMES, VALUES)))
def test_random_fields_end_their_stream_at_most(fields: Fields) -> None:
    """Except where the library takes a length that is none for the connection's fault."""

    async def one_stream() -> None:
        async with client(hello) as one:
            await one.say(headers(1, hpack.Encoder().encode([*GET, *fields]), "END_HEADERS", "END_STREAM"))
            assert not one.pipe.ended
            assert one.outcome() in ("200", "rst 1")

    asyncio.run(one_stream())


@given(st.binary(max_size=40))
def test_what_is_no_preface_ends_politely(noise: bytes) -> None:
    async def begin() -> None:
        async with client(hello, greet=False) as one:
            await one.say(noise, PREFACE + SettingsFrame(0).serialize())
            assert one.pipe.ended or not noise

    asyncio.run(begin())
