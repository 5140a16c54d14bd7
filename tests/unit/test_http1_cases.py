"""The same bytes mean the same requests, however the network cuts them, and wrong bytes mean none."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.http1_cases import CASES, GOOD, OK, Case
from tests.unit.http1_kit import Talk, say


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in pairwise(ends) if begin < end]


def reading(talk: Talk) -> tuple[Any, ...]:
    """What both sides must agree on: the whole requests, and the answers."""
    return [one for one in talk.app.seen if one.complete], talk.statuses


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_case_is_answered_as_the_rfcs_say(case: Case) -> None:
    talk = await say([case.data])
    assert tuple(talk.statuses) == case.statuses
    assert len([one for one in talk.app.seen if one.complete]) == case.statuses.count(200)
    if case.statuses[-1] != 200:
        assert talk.answers[-1].headers["connection"] == "close"
        assert talk.wire.eof


@given(case=st.sampled_from(CASES), places=st.lists(st.integers(0, 400), max_size=6))
def test_any_cut_of_the_same_bytes_is_read_alike(case: Case, places: list[int]) -> None:
    whole = asyncio.run(say([case.data]))
    parts = asyncio.run(say(cut(case.data, places)))
    assert reading(whole) == reading(parts)


@given(
    case=st.sampled_from(GOOD),
    at=st.integers(0, 300),
    width=st.integers(0, 4),
    put=st.one_of(st.binary(max_size=4), st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b":", b"0"])),
    places=st.lists(st.integers(0, 400), max_size=4),
)
def test_mutated_requests_never_break_a_worker_and_have_one_reading(
    case: Case, at: int, width: int, put: bytes, places: list[int]
) -> None:
    at %= len(case.data)
    data = case.data[:at] + put + case.data[at + width :]
    whole, parts = asyncio.run(say([data])), asyncio.run(say(cut(data, places)))
    assert reading(whole) == reading(parts)
    assert 500 not in whole.statuses


@given(data=st.binary(max_size=200))
def test_noise_is_no_request(data: bytes) -> None:
    talk = asyncio.run(say([data, OK]))
    assert 500 not in talk.statuses
