"""Recorded metrics that a test makes up, and the checks that these and every real record of metrics pass.

    signals = FakeSignals(world)
    signals.put("orders_paid_total", {"service": "orders"}, [(world.time() - 60, 0), (world.time(), 30)])
    signals.put_steady("gapless_requests_total", {"service": "orders"}, per_s=10)
    signals.put_histogram("pay_seconds", {"service": "orders"}, [(at, {0.1: 90, math.inf: 100}, 7.5)])
    await signals.latest(Selection(metric="orders_paid_total", of="rate"))

`make(points)` gives a `SignalsRig` whose signals have these points recorded:

    await check_signals(make)                                   # or, one test for each:
    @pytest.mark.parametrize("check", SIGNALS_CHECKS, ids=lambda check: check.__name__)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gapless.core.errors import SignalsUnavailable
from gapless.core.ports import Selection, Series, World
from gapless.observe.evaluate import Track, evaluate, moments
from gapless.testing._signals_checks import SIGNALS_CHECKS, MakeSignals, Recorded, SignalsRig, run_check

__all__ = ["SIGNALS_CHECKS", "FakeSignals", "MakeSignals", "Recorded", "SignalsRig", "check_signals", "run_check"]


@dataclass(slots=True)
class FakeSignals:
    """`core.ports.Signals` over what was put in. `away`: why they cannot be had; every question raises it then.
    `asked`: every selection."""

    world: World
    away: str = ""
    asked: list[Selection] = field(default_factory=list)
    _tracks: dict[str, list[Track]] = field(default_factory=dict)

    def put(self, metric: str, labels: Mapping[str, str], points: Iterable[tuple[float, float]]) -> None:
        """Points (seconds since the epoch, value), oldest first, are added to those of these labels. Of a counter
        (`…_total`): what it stood at."""
        tracks = self._tracks.setdefault(metric, [])
        track = next((one for one in tracks if one.labels == labels), None)
        if track is None:
            track = Track(dict(labels), [], [])
            tracks.append(track)
        for at, value in points:
            track.at.append(at)  # type: ignore[attr-defined]  # they are lists here
            track.values.append(value)  # type: ignore[attr-defined]

    def put_steady(
        self, metric: str, labels: Mapping[str, str], per_s: float, *, since_s: float = 3600.0, every_s: float = 5.0
    ) -> None:
        """A counter that has risen evenly for so long until now."""
        now, count = self.world.time(), int(since_s / every_s)
        self.put(metric, labels, [(now - (count - n) * every_s, n * every_s * per_s) for n in range(count + 1)])

    def put_gauge(
        self, metric: str, labels: Mapping[str, str], value: float, *, since_s: float = 3600.0, every_s: float = 5.0
    ) -> None:
        """A gauge that has had this value for so long until now."""
        now, count = self.world.time(), int(since_s / every_s)
        self.put(metric, labels, [(now - (count - n) * every_s, value) for n in range(count + 1)])

    def put_histogram(
        self, metric: str, labels: Mapping[str, str], points: Iterable[tuple[float, Mapping[float, float], float]]
    ) -> None:
        """Points (seconds since the epoch, observations up to each bound, their sum); the largest bound is `math.inf`
        and counts all of them."""
        for at, buckets, total in points:
            for bound, count in buckets.items():
                self.put(f"{metric}_bucket", {**labels, "le": le(bound)}, [(at, count)])
            self.put(f"{metric}_sum", labels, [(at, total)])
            self.put(f"{metric}_count", labels, [(at, buckets[max(buckets)])])

    def clear(self) -> None:
        """Nothing was recorded."""
        self._tracks.clear()

    async def series(self, selection: Selection, since_at: float, until_at: float, step_s: float) -> Sequence[Series]:
        return self._answer(selection, moments(since_at, until_at, step_s))

    async def latest(self, selection: Selection, at: float | None = None) -> Sequence[Series]:
        return self._answer(selection, [self.world.time() if at is None else at])

    def _answer(self, selection: Selection, at: Sequence[float]) -> list[Series]:
        self.asked.append(selection)
        if self.away:
            raise SignalsUnavailable(self.away)
        return evaluate(selection, lambda name: self._tracks.get(name, ()), at)


def le(bound: float) -> str:
    """A bucket's upper bound as its label."""
    return "+Inf" if bound == float("inf") else repr(float(bound))


async def check_signals(make: MakeSignals) -> None:
    """Run every check. Raises AssertionError, with the check's name in a note."""
    for check in SIGNALS_CHECKS:
        async with make() as rig:
            await run_check(check, rig)
