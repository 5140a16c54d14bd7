"""What services that the gateway does not lead to have answered, and who called whom: from the record of metrics.

The record is asked every few seconds only, as often as it learns something; all pages share the answers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from gapless.console.kept import Kept
from gapless.console.lately import KEPT_S, Slot
from gapless.core.errors import SignalsUnavailable
from gapless.core.model import Window
from gapless.core.ports import Selection, Series, Signals

SLOT_S = 10.0
"""As those of the gateway, so that both can be put together."""
POINTS = 240
"""Of a rollout's chart: more than it has pixels for a line tells nothing."""
RELEASES_KEPT = 64
OVER_S = 30.0
"""Some scrapes: a rate over less is an accident."""
DAY_S = 86_400.0
"""The longest that the record holds: what budgets are counted over."""
DAY_FRESH_S = 15.0
"""A day hardly changes in so long."""
BURN_WINDOWS_S = (300.0, 3_600.0, 21_600.0)
"""Those that alerts look at, too."""
REQUESTS, DURATIONS, CALLS = (
    "gapless_requests_total",
    "gapless_request_duration_seconds",
    "gapless_client_attempts_total",
)
FAILED = "5xx"
GOOD = ("answered", "abandoned")
"""Outcomes of a call that say nothing against the one that was called."""


class Recorded:
    """`signals` may have nothing, or be away: then there are no figures."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._slots = Kept(self._ask_slots)
        self._calls = Kept(self._ask_calls)
        self._breakers = Kept(self._ask_breakers)
        self._shares = Kept(self._ask_shares)
        self._counts = Kept(self._ask_counts, DAY_FRESH_S)
        self._releases: dict[tuple[str, str, float], Kept[list[Slot]]] = {}

    async def slots(self, service: str, now_at: float) -> list[Slot]:
        """As the instances of a service counted, oldest first."""
        return (await self._slots.get(now_at)).get(service, [])

    async def calls(self, now_at: float) -> dict[tuple[str, str], tuple[float, float | None]]:
        """Requests a second and the share of errors (0…1), by who calls and who is called."""
        return await self._calls.get(now_at)

    async def breakers(self, now_at: float) -> list[tuple[str, str, str]]:
        """Service, guard and state of each breaker that is not closed."""
        return await self._breakers.get(now_at)

    async def shares(self, now_at: float) -> dict[tuple[str, float], float]:
        """The share (0…1) of errors by service and by each of BURN_WINDOWS_S."""
        return await self._shares.get(now_at)

    async def counts(self, now_at: float) -> dict[str, tuple[float, float]]:
        """Requests and errors of each service in the last DAY_S, as far as they are recorded."""
        return await self._counts.get(now_at)

    async def of_release(
        self, service: str, release: str, since_at: float, until_at: float, now_at: float
    ) -> list[Slot]:
        """What a release's instances counted in that time, in POINTS slots at most."""
        key = (service, release, since_at)
        if key not in self._releases and len(self._releases) >= RELEASES_KEPT:
            self._releases.clear()
        kept = self._releases.setdefault(key, Kept(partial(self._ask_release, service, release, since_at)))
        return [slot for slot in await kept.get(now_at) if slot.at <= until_at]

    async def _ask_release(self, service: str, release: str, since_at: float, now_at: float) -> list[Slot]:
        step_s = max(math.ceil((now_at - since_at) / POINTS / SLOT_S), 1) * SLOT_S
        where, span_s = {"service": service, "release": release}, (math.floor(since_at / step_s) * step_s, step_s)
        over_s = max(OVER_S, step_s)
        asked = Selection(metric=REQUESTS, where=where, by=("service",), of="rate", over_s=over_s)
        failed = replace(asked, where=where | {"status": FAILED})
        took = Selection(
            metric=DURATIONS, where=where, by=("service",), of="quantile", q=0.99, over_s=max(60.0, step_s)
        )
        rates, errors, p99s = [
            (await self._series(each, now_at, *span_s)).get(service, {}) for each in (asked, failed, took)
        ]
        return _slots(rates, errors, p99s, step_s)

    async def _ask_shares(self, now_at: float) -> dict[tuple[str, float], float]:
        found: dict[tuple[str, float], float] = {}
        for over_s in BURN_WINDOWS_S:
            sums = await self._sums(now_at, over_s)
            found |= {(name, over_s): failed / count for name, (count, failed) in sums.items() if count >= 1}
        return found

    async def _ask_counts(self, now_at: float) -> dict[str, tuple[float, float]]:
        return await self._sums(now_at, DAY_S)

    async def _sums(self, now_at: float, over_s: float) -> dict[str, tuple[float, float]]:
        selection = Selection(metric=REQUESTS, by=("service", "status"), of="increase", over_s=over_s)
        sums: dict[str, tuple[float, float]] = {}
        for series in await self._latest(selection, now_at):
            name, value = series.labels.get("service", ""), series.points[-1][1]
            all_of_it, failed = sums.get(name, (0.0, 0.0))
            sums[name] = all_of_it + value, failed + value * (series.labels.get("status") == FAILED)
        return sums

    async def _ask_slots(self, now_at: float) -> dict[str, list[Slot]]:
        asked = Selection(metric=REQUESTS, by=("service",), of="rate", over_s=OVER_S)
        failed = Selection(metric=REQUESTS, where={"status": FAILED}, by=("service",), of="rate", over_s=OVER_S)
        took = Selection(metric=DURATIONS, by=("service",), of="quantile", q=0.99, over_s=60.0)
        rates, errors, p99s = [await self._series(each, now_at) for each in (asked, failed, took)]
        return {name: _slots(points, errors.get(name, {}), p99s.get(name, {})) for name, points in rates.items()}

    async def _series(
        self, selection: Selection, now_at: float, since_at: float | None = None, step_s: float = SLOT_S
    ) -> dict[str, dict[float, float]]:
        end_at = now_at - now_at % step_s
        try:
            found = await self._signals.series(
                selection, end_at - KEPT_S if since_at is None else since_at, end_at, step_s
            )
        except SignalsUnavailable:
            return {}
        return {series.labels.get("service", ""): dict(series.points) for series in found}

    async def _ask_calls(self, now_at: float) -> dict[tuple[str, str], tuple[float, float | None]]:
        by = ("service", "target", "outcome")
        found = await self._latest(Selection(metric=CALLS, by=by, of="rate", over_s=OVER_S), now_at)
        total: dict[tuple[str, str], float] = {}
        bad: dict[tuple[str, str], float] = {}
        for series in found:
            edge = series.labels.get("service", ""), series.labels.get("target", "")
            total[edge] = total.get(edge, 0.0) + series.points[-1][1]
            if series.labels.get("outcome") not in GOOD:
                bad[edge] = bad.get(edge, 0.0) + series.points[-1][1]
        return {edge: (rate, bad.get(edge, 0.0) / rate if rate else None) for edge, rate in total.items() if edge[1]}

    async def _ask_breakers(self, now_at: float) -> list[tuple[str, str, str]]:
        selection = Selection(metric="gapless_guard_breaker_state", by=("service", "guard", "state"), over_s=OVER_S)
        found = await self._latest(selection, now_at)
        states = [(s.labels.get("service", ""), s.labels.get("guard", ""), s.labels.get("state", "")) for s in found
                  if s.points[-1][1] > 0]  # fmt: skip
        return sorted(state for state in states if state[2] not in ("closed", ""))

    async def _latest(self, selection: Selection, now_at: float) -> list[Series]:
        try:
            return [series for series in await self._signals.latest(selection, now_at) if series.points]
        except SignalsUnavailable:
            return []


def _slots(
    rates: dict[float, float], errors: dict[float, float], p99s: dict[float, float], slot_s: float = SLOT_S
) -> list[Slot]:
    return [
        Slot(
            at=at - slot_s,
            length_s=slot_s,
            window=Window(requests=round(rate * slot_s), errors=round(errors.get(at, 0.0) * slot_s)),
            told_p99_s=p99s.get(at),
        )
        for at, rate in sorted(rates.items())
    ]
