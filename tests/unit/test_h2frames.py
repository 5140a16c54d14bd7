"""Frames are found however the bytes are cut, and ours are put in only where they may be."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gapless.server.grpc.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE_BYTES,
    Frames,
    frame,
    goaway,
    ping,
)

OURS = ping(b"gap-less")
kinds = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 9])
frames = st.builds(
    lambda kind, ends, payload, stream: frame(kind, END_HEADERS if ends else 0, payload, stream),
    kinds,
    st.booleans(),
    st.binary(max_size=20),
    st.integers(0, 2**31 - 1),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(at)]


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 500), max_size=6), st.sampled_from([0, PREFACE_BYTES]))
def test_frames_are_found_however_they_are_cut(sent: list[bytes], cuts: list[int], preface: int) -> None:
    walk = Frames(preface)
    data = bytes(preface) + b"".join(sent)
    found = [one for piece in pieces(data, cuts) for one in walk.feed(piece)]
    assert [(one.kind, one.flags, one.stream) for one in found] == [
        (one[3], one[4], int.from_bytes(one[5:9]) & 0x7FFFFFFF) for one in sent
    ]


@given(st.lists(frames, min_size=1, max_size=8), st.lists(st.integers(0, 500), max_size=6), st.integers(0, 6))
def test_what_is_put_in_breaks_no_frame_and_no_header_block(sent: list[bytes], cuts: list[int], due: int) -> None:
    """As the relay does it: from some piece on, at the first gap."""
    walk, out, said = Frames(), b"", False
    for number, piece in enumerate(pieces(b"".join(sent), cuts)):
        rest = piece
        if number >= due and not said and (gap := walk.gap(piece)) >= 0:
            walk.feed(piece[:gap])
            assert walk.between
            out, rest, said = out + piece[:gap] + OURS, piece[gap:], True
        walk.feed(rest)
        out += rest
    kept = split(out)
    if said:
        at = kept.index(OURS)
        assert at > 0, "SETTINGS come first"
        assert not open_block(kept[:at])
        kept.pop(at)
    assert kept == sent


def open_block(before: list[bytes]) -> bool:
    """Whether a header block goes on behind these frames."""
    blocks = [one for one in before if one[3] in (HEADERS, CONTINUATION)]
    return bool(blocks) and not blocks[-1][4] & END_HEADERS


def split(data: bytes) -> list[bytes]:
    found = []
    while data:
        end = 9 + int.from_bytes(data[:3])
        found.append(data[:end])
        data = data[end:]
    return found


def test_nothing_is_put_before_the_first_frame_or_inside_a_header_block() -> None:
    walk = Frames()
    assert walk.gap(b"") == -1
    settings = frame(4, 0, b"")
    assert walk.gap(settings) == len(settings)
    walk.feed(settings)
    assert walk.between
    opened = frame(HEADERS, 0, b"abc", 1)
    walk.feed(opened)
    assert not walk.between
    rest = frame(CONTINUATION, END_HEADERS, b"d", 1) + frame(DATA, 0, b"x", 1)
    assert walk.gap(rest) == len(frame(CONTINUATION, END_HEADERS, b"d", 1))


def test_the_frames_that_we_say_are_what_another_implementation_reads() -> None:
    from hyperframe.frame import Frame, GoAwayFrame, PingFrame

    for data, kind in ((goaway(), GoAwayFrame), (OURS, PingFrame)):
        read, length = Frame.parse_frame_header(memoryview(data[:9]))
        read.parse_body(memoryview(data[9 : 9 + length]))
        assert isinstance(read, kind)
    assert OURS[3] == PING
