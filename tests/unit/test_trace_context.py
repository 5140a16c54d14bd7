"""What travels in `traceparent`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.observe.trace.context import Ids, Trace, parse, render
from gapless.testing import FakeWorld

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
hexes = "0123456789abcdef"


def test_the_example_of_the_standard() -> None:
    assert parse(f"00-{TRACE}-{SPAN}-01".encode()) == Trace(TRACE, SPAN, sampled=True)


@given(
    st.builds(
        Trace,
        st.text(hexes, min_size=32, max_size=32).filter(lambda text: text.strip("0") != ""),
        st.text(hexes, min_size=16, max_size=16).filter(lambda text: text.strip("0") != ""),
        st.booleans(),
    )
)
def test_what_is_written_is_read_again(trace: Trace) -> None:
    assert parse(render(trace)) == trace


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_no_traceparent_begins_a_new_trace(header: str) -> None:
    assert parse(header.encode()) is None


def test_later_versions_may_have_more_fields_and_flags() -> None:
    assert parse(f"01-{TRACE}-{SPAN}-03-what-comes".encode()) == Trace(TRACE, SPAN, sampled=True)
    assert parse(f"00-{TRACE}-{SPAN}-02".encode()) == Trace(TRACE, SPAN, sampled=False)


@given(st.binary(max_size=80))
def test_no_header_breaks_it(header: bytes) -> None:
    parse(header)


@given(st.integers(0, 2**64 - 1))
def test_ids_do_not_repeat_and_are_well_formed(seed: int) -> None:
    ids = Ids(FakeWorld(seed).bits)
    found = [ids.trace_id() for _ in range(100)] + [ids.span_id() for _ in range(100)]
    found += [each for _ in range(100) for each in ids.first(0)[:2]]
    assert len(set(found)) == 400
    assert parse(render(Trace(found[0], found[100], sampled=True))) == Trace(found[0], found[100], sampled=True)


def test_they_are_spread_evenly_enough_to_sample_by() -> None:
    ids = Ids(FakeWorld(7).bits)
    hit = sum(ids.first(2**64 // 100).sampled for _ in range(20_000))
    assert 150 < hit < 250
