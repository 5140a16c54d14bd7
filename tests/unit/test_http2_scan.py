"""What a client may cost, and that pieces of any size mean the same."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.server.http.preface import PREFACE, is_preface
from gapless.server.http2.scan import (
    EARNED,
    IDLE_FRAMES,
    IDLE_PER_S,
    RESETS,
    Abuse,
    Budget,
    Scan,
)
from tests.unit.http2_kit import continuation, data, headers, ping, raw, rst, settings, window

CALM = 11


def fed(scan: Scan, data: bytes, now: float = 0.0) -> bytes:
    return b"".join(scan.feed(data, now))


def greeted() -> Scan:
    scan = Scan(65_536, 0.0)
    fed(scan, PREFACE + settings({}))
    return scan


@pytest.mark.parametrize(
    "frame",
    [ping(), settings({4: 1}), window(0, 1), raw(2, 1, bytes(5)), data(1), raw(0xEE, 0)],
    ids=["ping", "settings", "window", "priority", "empty data", "unknown"],
)
def test_frames_that_ask_for_nothing_are_limited(frame: bytes) -> None:
    scan = greeted()
    with pytest.raises(Abuse) as caught:
        fed(scan, frame * (int(IDLE_FRAMES) + 1))
    assert caught.value.code == CALM
    fed(greeted(), frame * (int(IDLE_FRAMES) - 1))


def test_useful_frames_earn_idle_ones() -> None:
    scan = greeted()
    for _ in range(int(IDLE_FRAMES)):
        fed(scan, data(1, b"x") + ping() * int(EARNED))
        scan.sent()


def test_resets_are_limited_unless_requests_are_answered() -> None:
    scan = greeted()
    for number in range(1, 2 * int(RESETS), 2):
        fed(scan, headers(number, b"", "END_HEADERS") + rst(number))
    with pytest.raises(Abuse) as caught:
        fed(scan, rst(1))
    assert caught.value.code == CALM
    patient = greeted()
    for number in range(1, 4 * int(RESETS), 2):
        fed(patient, headers(number, b"", "END_HEADERS") + rst(number))
        patient.answered()


def test_a_header_block_has_an_end() -> None:
    scan = greeted()
    with pytest.raises(Abuse) as caught:
        fed(scan, headers(1, b"") + continuation(1, b"x" * 16_000) * 5)
    assert caught.value.code == CALM
    with pytest.raises(Abuse):
        fed(greeted(), headers(1, b"") + continuation(1, b"") * 10_000)


def test_a_head_that_does_not_end_is_seen() -> None:
    scan = Scan(65_536, 0.0)
    assert scan.in_head
    fed(scan, PREFACE + settings({}))
    assert not scan.in_head
    fed(scan, headers(1, b"abc")[:5])
    assert scan.in_head
    fed(scan, headers(1, b"abc")[5:])
    assert scan.in_head
    fed(scan, continuation(1, b"", "END_HEADERS"))
    assert not scan.in_head


def test_goaway_is_kept_from_h2() -> None:
    scan = greeted()
    assert fed(scan, ping() + raw(7, 0, bytes(8)) + ping()) == ping() * 2
    assert scan.leaving


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5))))
def test_a_budget_never_exceeds_its_most(steps: list[tuple[float, float]]) -> None:
    budget, now, spent, earned = Budget(3.0, 0.5, 0.0), 0.0, 0, 0.0
    for wait, reward in steps:
        now += wait
        budget.earn(reward)
        earned += reward
        spent += budget.spend(now)
    assert spent <= 3 + earned + now * 0.5 + 1e-6


FRAMES = st.one_of(
    st.builds(ping, st.binary(min_size=8, max_size=8)),
    st.builds(data, st.just(1), st.binary(max_size=40)),
    st.builds(raw, st.integers(0, 12), st.integers(0, 5), st.binary(max_size=12), st.integers(0, 255)),
)


def outcome(scan: Scan, pieces: list[bytes]) -> tuple[bytes, str]:
    out = b""
    try:
        for piece in pieces:
            for frame in scan.feed(piece, 0.0):
                out += frame
    except Abuse as abuse:
        return out, f"{abuse.code} {abuse}"
    return out, ""


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 200), max_size=6))
def test_any_segmentation_means_the_same(frames: list[bytes], cuts: list[int]) -> None:
    whole = PREFACE + settings({}) + b"".join(frames)
    at = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    pieces = [whole[one:two] for one, two in itertools.pairwise(at)]
    assert outcome(Scan(99, 0.0), pieces) == outcome(Scan(99, 0.0), [whole])


@given(st.binary(max_size=40))
def test_random_bytes_do_no_harm(noise: bytes) -> None:
    outcome(greeted(), [noise])


@given(st.integers(0, 40))
def test_a_preface_is_known_from_its_first_byte(length: int) -> None:
    stream = PREFACE + settings({})
    assert is_preface(stream[:length])
    assert length == 0 or not is_preface(stream[: length - 1] + b"#") or length > len(PREFACE)


def test_time_gives_back() -> None:
    scan = greeted()
    fed(scan, ping() * (int(IDLE_FRAMES) - 1))
    fed(scan, ping() * int(IDLE_PER_S), 1.0)
    with pytest.raises(Abuse):
        fed(scan, ping() * 2, 1.0)
