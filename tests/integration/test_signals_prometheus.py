"""A real Prometheus answers what the embedded recorder does, and is asked by PromQL."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gapless.core.errors import SignalsUnavailable
from gapless.core.ports import Selection
from gapless.core.world import RealWorld
from gapless.observe.exposition import rendered
from gapless.observe.prometheus import PrometheusSignals
from gapless.testing._signals_checks import RECORDED, Recorded
from gapless.testing.signals import SignalsRig, check_signals, le
from tests.integration.prometheus_kit import backfill, prometheus
from tests.ports import free_port


def points(one: Recorded, now: float) -> list[str]:
    lines = []
    for at, value in one.points:
        if one.kind == "histogram":
            counts, total = value
            told = [(f"{one.metric}_bucket", {**one.labels, "le": le(bound)}, n) for bound, n in counts.items()]
            told += [(f"{one.metric}_sum", one.labels, total), (f"{one.metric}_count", one.labels, counts[math.inf])]
        else:
            told = [(one.metric, one.labels, value)]
        lines += [f"{rendered(name, labels)} {number} {now + at:.3f}" for name, labels, number in told]
    return lines


def openmetrics(now: float) -> str:
    lines: list[str] = []
    for metric in dict.fromkeys(one.metric for one in RECORDED):
        mine = [one for one in RECORDED if one.metric == metric]
        lines.append(f"# TYPE {metric.removesuffix('_total')} {mine[0].kind}")
        for one in mine:
            lines += points(one, now)
    return "\n".join([*lines, "# EOF", ""])


async def test_it_passes_every_check(tmp_path: Path) -> None:
    now = time.time() // 10 * 10
    backfill(tmp_path, openmetrics(now))
    with prometheus(tmp_path) as url:

        @asynccontextmanager
        async def make() -> AsyncIterator[SignalsRig]:
            signals = PrometheusSignals(url, RealWorld())
            try:
                yield SignalsRig(signals=signals, now=now)
            finally:
                await signals.aclose()

        await check_signals(make)
        signals = PrometheusSignals(url, RealWorld())
        with pytest.raises(SignalsUnavailable, match="answered 400"):
            await signals.latest(Selection(metric="no metric", of="rate"))
        assert await signals.instant("vector(3) + 4") == 7.0
        assert await signals.instant("no_such_metric") is None
        with pytest.raises(SignalsUnavailable, match="has 3 values"):
            await signals.instant(f'last_over_time(check_orders_total{{service="orders"}}[5m] @ {now})')
        await signals.aclose()


async def test_one_that_does_not_answer_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    signals = PrometheusSignals(url, RealWorld())
    with pytest.raises(SignalsUnavailable, match=url):
        await signals.latest(Selection(metric="depth"))
    await signals.aclose()
