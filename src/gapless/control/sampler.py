"""Reads the metrics of the business that rollouts are judged by. It asks others, who may be slow or away, so it does so
beside the decisions, which take what is there."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from gapless.control.records import Records
from gapless.core.errors import SignalsUnavailable
from gapless.core.model import MetricRule, Reading, Rollout, RolloutState
from gapless.core.ports import Queries, Selection, Signals, World
from gapless.rollout import metrics

_log = logging.getLogger("gapless.control")

VALUE_OVER_S = 60.0
"""What rates, means and quantiles look back on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Readings for one rollout at one step; those of another step are nobody's any more."""

    number: int
    step: int
    readings: tuple[Reading, ...]


class Sampler:
    """`step` is one look at which rollouts need readings. `signals`, `queries`: None where nobody records metrics, or
    nobody answers PromQL; nothing is read then, and that is no evidence."""

    def __init__(self, records: Records, signals: Signals | None, queries: Queries | None, world: World) -> None:
        self._records = records
        self._signals = signals
        self._queries = queries
        self._world = world
        self._samples: dict[str, Sample] = {}
        self._told: dict[str, str] = {}

    def take(self, rollout: Rollout) -> tuple[Reading, ...] | None:
        """What was read for it since it was last asked; None when nothing was."""
        sample = self._samples.pop(rollout.service, None)
        if sample is None or (sample.number, sample.step) != (rollout.number, rollout.step):
            return None
        return sample.readings

    async def step(self) -> None:
        """Read for every rollout that is due."""
        rollouts = [self._records.rollout(service.name) for service in self._records.services()]
        await asyncio.gather(*(self._sample(rollout) for rollout in rollouts if rollout))

    async def _sample(self, rollout: Rollout) -> None:
        moving = rollout.state is RolloutState.SHIFTING and rollout.applied_at
        if not moving or rollout.service in self._samples:
            return
        now_at = self._world.time()
        rules = metrics.due(rollout.evidence, rollout.policy.metrics, now_at - rollout.applied_at, now_at)
        if rules:
            readings = await asyncio.gather(*(self._read(rollout, rule, now_at) for rule in rules))
            self._samples[rollout.service] = Sample(number=rollout.number, step=rollout.step, readings=tuple(readings))

    async def _read(self, rollout: Rollout, rule: MetricRule, now_at: float) -> Reading:
        try:
            found = await self._ask(rollout, rule, now_at)
        except SignalsUnavailable as error:
            self._tell(rollout, rule, str(error))
            return Reading(name=rule.name)
        self._tell(rollout, rule, "")
        return found

    async def _ask(self, rollout: Rollout, rule: MetricRule, now_at: float) -> Reading:
        if rule.query:
            canary, stable = await asyncio.gather(
                self._query(rollout, rule, rollout.after), self._query(rollout, rule, rollout.before)
            )
            return Reading(name=rule.name, canary=canary, stable=stable)
        if not rule.counted:
            of = await self._by_release(rollout, rule.metric, rule.of, VALUE_OVER_S, now_at)
            return Reading(name=rule.name, canary=of.get(rollout.after), stable=of.get(rollout.before))
        since_at = max(rollout.evidence.read_at, rollout.applied_at + rule.after_s)
        over_s = max(now_at - since_at, 1.0)
        of = await self._by_release(rollout, rule.per, "increase", over_s, now_at)
        events = await self._by_release(rollout, rule.metric, "increase", over_s, now_at)
        return counted(rule, events, of, rollout)

    async def _by_release(
        self, rollout: Rollout, metric: str, of: str, over_s: float, now_at: float
    ) -> dict[str, float]:
        if self._signals is None:
            raise SignalsUnavailable("no metrics are recorded here")
        selection = Selection(
            metric=metric,
            where={"service": rollout.service},
            by=("release",),
            of=of,  # type: ignore[arg-type]  # checked by the settings
            over_s=over_s,
        )
        found = await self._signals.latest(selection, now_at)
        return {series.labels.get("release", ""): series.points[-1][1] for series in found if series.points}

    async def _query(self, rollout: Rollout, rule: MetricRule, release: str) -> float | None:
        if self._queries is None:
            raise SignalsUnavailable("no Prometheus is asked here, so nobody can evaluate a query")
        query = rule.query.replace("$service", rollout.service).replace("$release", release)
        return await self._queries.instant(query)

    def _tell(self, rollout: Rollout, rule: MetricRule, what: str) -> None:
        """Each new reason once."""
        place = f"{rollout.service}.{rule.name}"
        if what and self._told.get(place) != what:
            _log.warning("metric %s of rollout %d of %s: %s", rule.name, rollout.number, rollout.service, what)
        self._told[place] = what


def counted(rule: MetricRule, events: dict[str, float], of: dict[str, float], rollout: Rollout) -> Reading:
    """No event recorded among some trials is a count of 0; no trial recorded is nothing known."""
    mine, other = of.get(rollout.after), of.get(rollout.before)
    if mine is None or other is None:
        return Reading(name=rule.name)
    return Reading(
        name=rule.name,
        canary=events.get(rollout.after, 0.0),
        stable=events.get(rollout.before, 0.0),
        canary_of=mine,
        stable_of=other,
    )
