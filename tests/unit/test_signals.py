"""The made-up metrics pass what every record of metrics passes."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import SignalsUnavailable
from gapless.core.ports import Selection
from gapless.observe.evaluate import Track, increase, quantile
from gapless.testing import FakeWorld
from gapless.testing._signals_checks import RECORDED
from gapless.testing.signals import SIGNALS_CHECKS, FakeSignals, SignalsRig, check_signals, run_check

NOW = 1_700_000_000.0


def filled() -> FakeSignals:
    signals = FakeSignals(FakeWorld())
    for one in RECORDED:
        points = [(NOW + at, value) for at, value in one.points]
        if one.kind == "histogram":
            signals.put_histogram(one.metric, one.labels, [(at, *value) for at, value in points])
        else:
            signals.put(one.metric, one.labels, points)
    return signals


@asynccontextmanager
async def make() -> AsyncIterator[SignalsRig]:
    yield SignalsRig(signals=filled(), now=NOW)


@pytest.mark.parametrize("check", SIGNALS_CHECKS, ids=lambda check: check.__name__)
async def test_passes(check) -> None:
    async with make() as rig:
        await run_check(check, rig)


async def test_the_whole_suite_runs_at_once() -> None:
    await check_signals(make)


async def test_a_failing_check_names_itself() -> None:
    @asynccontextmanager
    async def empty() -> AsyncIterator[SignalsRig]:
        yield SignalsRig(signals=FakeSignals(FakeWorld()), now=NOW)

    with pytest.raises(AssertionError) as failure:
        await check_signals(empty)
    assert "a_rate_adds_up" in failure.value.__notes__[0]


async def test_steady_series_and_being_away() -> None:
    signals = FakeSignals(FakeWorld())
    signals.put_steady("paid_total", {"service": "orders"}, per_s=3)
    signals.put_gauge("depth", {}, 4)
    [paid] = await signals.latest(Selection(metric="paid_total", of="rate", over_s=300))
    assert paid.points[0][1] == pytest.approx(3)
    [depth] = await signals.latest(Selection(metric="depth"))
    assert depth.points == ((signals.world.time(), 4),)
    signals.away = "Prometheus does not answer"
    with pytest.raises(SignalsUnavailable, match="does not answer"):
        await signals.latest(Selection(metric="depth"))


@given(st.lists(st.floats(0, 100), min_size=2, max_size=20), st.integers(0, 20))
def test_a_restart_never_makes_an_increase_negative_nor_larger_than_what_was_counted(steps, restart) -> None:
    values, value = [], 0.0
    for n, step in enumerate(steps):
        value = step if n == restart else value + step
        values.append(value)
    at = [float(n) for n in range(len(values))]
    grown = increase(Track({}, at, values), at[-1], at[-1])
    assert grown is not None
    assert -1e-6 <= grown <= sum(steps) + 1e-6


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_of_its_rank(counts, q) -> None:
    bounds = [*(float(n + 1) for n in range(len(counts) - 1)), math.inf]
    running = [sum(counts[: n + 1]) for n in range(len(counts))]
    found = quantile(q, list(zip(bounds, running, strict=True)))
    if not running[-1]:
        assert found is None
        return
    index = next(n for n, total in enumerate(running) if total >= q * running[-1])
    low = bounds[index - 1] if index else 0.0
    high = bounds[index] if index < len(bounds) - 1 else bounds[-2]
    assert low - 1e-9 <= found <= high + 1e-9
