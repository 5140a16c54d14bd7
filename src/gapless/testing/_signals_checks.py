"""What every record of metrics must answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal

from gapless.core.ports import Selection, Series, Signals
from gapless.testing._asserts import same

LIMIT_S = 60.0
"""Real seconds after which a check counts as hanging: generous, because test machines are busy."""
EVERY_S = 10.0
LASTED_S = 600.0
NEAR = 0.03
"""Recorders take their points at slightly other moments: answers may differ by so much of the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A series to be recorded before the checks. `points`: seconds before `SignalsRig.now` (negative), and the value;
    of a histogram, the observations up to each bound (the last one infinite), and their sum."""

    metric: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Mapping[str, str]
    points: Sequence[tuple[float, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalsRig:
    """The signals under test with `RECORDED` in them. `now`: seconds since the epoch, to which its points relate; a
    multiple of 10."""

    signals: Signals
    now: float

    async def one(self, **selection: Any) -> float:
        """The value now. Raises AssertionError when there is not exactly one."""
        found = await self.signals.latest(Selection(**selection), self.now)
        assert len(found) == 1, f"one series was expected: {found!r}"
        assert len(found[0].points) == 1, f"one point was expected: {found[0]!r}"
        return found[0].points[0][1]

    async def by(self, label: str, **selection: Any) -> dict[str, float]:
        found = await self.signals.latest(Selection(by=(label,), **selection), self.now)
        return {series.labels.get(label, ""): series.points[-1][1] for series in found}


SignalsCheck = Callable[[SignalsRig], Awaitable[None]]
MakeSignals = Callable[[], AbstractAsyncContextManager[SignalsRig]]


def _moments(until_s: float = 0.0) -> list[float]:
    return [n * EVERY_S - LASTED_S for n in range(int((LASTED_S + until_s) / EVERY_S) + 1)]


def _who(service: str, release: str, instance: str, **more: str) -> dict[str, str]:
    return {"service": service, "release": release, "instance": instance, **more}


def _counter(labels: Mapping[str, str], per_s: float, reset_at: float = -math.inf) -> Recorded:
    points = [(at, per_s * (at - (reset_at if at >= reset_at > -math.inf else -LASTED_S))) for at in _moments()]
    return Recorded(metric="check_orders_total", kind="counter", labels=labels, points=points)


def _gauge(labels: Mapping[str, str], value: float, until_s: float = 0.0) -> Recorded:
    points = [(at, value) for at in _moments(until_s)]
    return Recorded(metric="check_depth", kind="gauge", labels=labels, points=points)


def _histogram(labels: Mapping[str, str], shares: Mapping[float, float], mean: float) -> Recorded:
    points = [
        (at, ({bound: round(share * (at + LASTED_S)) for bound, share in shares.items()}, mean * (at + LASTED_S)))
        for at in _moments()
    ]
    return Recorded(metric="check_pay_seconds", kind="histogram", labels=labels, points=points)


RECORDED: tuple[Recorded, ...] = (
    _counter(_who("orders", "1", "a", status="2xx"), 2.0),
    _counter(_who("orders", "1", "a", status="5xx"), 0.5),
    _counter(_who("orders", "2", "b", status="2xx"), 4.0),
    _counter(_who("payment", "7", "c", status="2xx"), 3.0, reset_at=-30.0),
    _gauge(_who("orders", "1", "a"), 3.0),
    _gauge(_who("orders", "2", "b"), 5.0),
    _gauge(_who("gone", "1", "d"), 9.0, until_s=-300.0),
    _histogram(_who("orders", "1", "a"), {0.1: 0.9, 0.5: 1.0, math.inf: 1.0}, 0.08),
    _histogram(_who("orders", "2", "b"), {0.1: 0.0, 0.5: 1.0, math.inf: 1.0}, 0.3),
)


async def a_rate_adds_up_what_is_asked_for_together(rig: SignalsRig) -> None:
    near(await rig.one(metric="check_orders_total", where={"service": "orders"}, of="rate"), 6.5)


async def a_rate_is_split_by_labels(rig: SignalsRig) -> None:
    found = await rig.by("release", metric="check_orders_total", where={"service": "orders"}, of="rate")
    same(sorted(found), ["1", "2"])
    near(found["1"], 2.5)
    near(found["2"], 4.0)


async def labels_choose(rig: SignalsRig) -> None:
    where = {"service": "orders", "release": "1", "status": "5xx"}
    near(await rig.one(metric="check_orders_total", where=where, of="rate"), 0.5)


async def a_rate_looks_back_as_far_as_asked(rig: SignalsRig) -> None:
    near(await rig.one(metric="check_orders_total", where={"release": "2"}, of="rate", over_s=300.0), 4.0)


async def an_increase_is_a_number_of_events(rig: SignalsRig) -> None:
    where = {"service": "orders", "status": "5xx"}
    near(await rig.one(metric="check_orders_total", where=where, of="increase", over_s=300.0), 150.0)


async def a_counter_that_began_again_loses_nothing(rig: SignalsRig) -> None:
    """But what it counted between the last point and its end, which nobody saw."""
    found = await rig.one(metric="check_orders_total", where={"service": "payment"}, of="rate", over_s=120.0)
    assert 2.5 <= found <= 3.05, f"a rate of 3 with one restart is {found}"


async def gauges_add_up(rig: SignalsRig) -> None:
    near(await rig.one(metric="check_depth", where={"service": "orders"}), 8.0)
    same(await rig.by("instance", metric="check_depth", where={"service": "orders"}), {"a": 3.0, "b": 5.0})


async def the_largest_gauge_is_found(rig: SignalsRig) -> None:
    near(await rig.one(metric="check_depth", where={"service": "orders"}, of="max"), 5.0)


async def a_gauge_that_ended_is_no_value(rig: SignalsRig) -> None:
    same(list(await rig.signals.latest(Selection(metric="check_depth", where={"service": "gone"}), rig.now)), [])
    then = await rig.signals.latest(Selection(metric="check_depth", where={"service": "gone"}), rig.now - 330.0)
    same([series.points[0][1] for series in then], [9.0])


async def nothing_recorded_is_no_series(rig: SignalsRig) -> None:
    same(list(await rig.signals.latest(Selection(metric="check_nothing_total", of="rate"), rig.now)), [])
    same(list(await rig.signals.series(Selection(metric="check_nothing"), rig.now - 60, rig.now, 10)), [])
    nowhere = Selection(metric="check_orders_total", where={"service": "nowhere"}, of="rate")
    same(list(await rig.signals.latest(nowhere, rig.now)), [])


async def a_label_that_is_not_there_is_empty(rig: SignalsRig) -> None:
    found = await rig.signals.latest(Selection(metric="check_depth", by=("service", "zone")), rig.now)
    same([dict(series.labels) for series in found], [{"service": "orders"}])
    near(await rig.one(metric="check_depth", where={"zone": "", "instance": "a"}), 3.0)


async def histograms_have_quantiles(rig: SignalsRig) -> None:
    found = await rig.by("release", metric="check_pay_seconds", of="quantile", q=0.5, over_s=300.0)
    near(found["1"], 0.1 * 0.5 / 0.9)
    near(found["2"], 0.3)
    near(await rig.one(metric="check_pay_seconds", of="quantile", q=0.9, over_s=300.0), 0.1 + 0.4 * 0.9 / 1.1)


async def histograms_have_means_and_rates(rig: SignalsRig) -> None:
    near(await rig.one(metric="check_pay_seconds", of="mean", over_s=300.0), 0.19)
    near(await rig.one(metric="check_pay_seconds", of="rate", over_s=300.0), 2.0)
    near(await rig.one(metric="check_pay_seconds", where={"release": "1"}, of="increase", over_s=300.0), 300.0)


async def a_series_has_a_point_at_every_step(rig: SignalsRig) -> None:
    since_at = rig.now - 240.0
    found = await rig.signals.series(
        Selection(metric="check_orders_total", where={"release": "2"}, by=("service", "release"), of="rate"),
        since_at,
        rig.now,
        30.0,
    )
    same([dict(series.labels) for series in found], [{"service": "orders", "release": "2"}])
    same([at for at, _ in found[0].points], [since_at + 30.0 * n for n in range(9)])
    for _, value in found[0].points:
        near(value, 4.0)


async def what_was_not_recorded_is_left_out(rig: SignalsRig) -> None:
    asked = Selection(metric="check_depth", where={"service": "gone"})
    found: Sequence[Series] = await rig.signals.series(asked, rig.now - 400.0, rig.now, 20.0)
    same([at for at, _ in found[0].points if at > rig.now - 230.0], [])
    same({value for _, value in found[0].points}, {9.0})


SIGNALS_CHECKS: tuple[SignalsCheck, ...] = (
    a_rate_adds_up_what_is_asked_for_together,
    a_rate_is_split_by_labels,
    labels_choose,
    a_rate_looks_back_as_far_as_asked,
    an_increase_is_a_number_of_events,
    a_counter_that_began_again_loses_nothing,
    gauges_add_up,
    the_largest_gauge_is_found,
    a_gauge_that_ended_is_no_value,
    nothing_recorded_is_no_series,
    a_label_that_is_not_there_is_empty,
    histograms_have_quantiles,
    histograms_have_means_and_rates,
    a_series_has_a_point_at_every_step,
    what_was_not_recorded_is_left_out,
)


def near(found: float, wanted: float) -> None:
    assert abs(found - wanted) <= NEAR * abs(wanted), f"found {found!r}, not about {wanted!r}"


async def run_check(check: SignalsCheck, rig: SignalsRig) -> None:
    """Run one check. Raises AssertionError or TimeoutError, with the check's name in a note."""
    try:
        async with asyncio.timeout(LIMIT_S):
            await check(rig)
    except BaseException as error:
        error.add_note(f"in the signals check {getattr(check, '__name__', check)!r}")
        raise
