"""Metrics of the business: what readings add to the evidence, and what it means. Pure.

A counted metric ("paid per cart") is compared as errors are: with equal releases an event is the canary's with the
probability of its share of what could have become one. So it has a part of alpha. A value has no such test: it is harm
when it was worse than the stable release's, by more than the tolerance, at three readings in a row; and while the last
one was, nothing is promoted. What is not recorded is no evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from gapless.core.model import Better, Evidence, MetricEvidence, MetricRule, Reading
from gapless.observe import judge

WORSE_IN_A_ROW = 3
"""Readings of a value that make harm of a difference; and so many there must be before a step is passed."""
READ_EVERY_S = 10.0
"""Metrics are scraped every 5 to 15 s: more often there is nothing new to read."""


def due(evidence: Evidence, rules: tuple[MetricRule, ...], held_s: float, now_at: float) -> tuple[MetricRule, ...]:
    """The rules to read now, after a step has held for `held_s`."""
    if now_at - evidence.read_at < READ_EVERY_S:
        return ()
    return tuple(rule for rule in rules if held_s >= rule.after_s)


def read(evidence: Evidence, rules: tuple[MetricRule, ...], readings: Iterable[Reading], now_at: float) -> Evidence:
    """The evidence after some readings; those without a rule are nobody's."""
    found = {reading.name: reading for reading in readings}
    known = {each.name: each for each in evidence.metrics}
    metrics = tuple(
        _taken(known.get(rule.name) or MetricEvidence(name=rule.name), rule, found.get(rule.name)) for rule in rules
    )
    return replace(evidence, metrics=metrics, read_at=now_at)


def new_step(evidence: Evidence) -> Evidence:
    """The evidence with everything that is asked for anew at each step at nothing."""
    metrics = tuple(replace(each, step_of=0.0, readings=0, worse=0) for each in evidence.metrics)
    return replace(evidence, metrics=metrics)


def _taken(each: MetricEvidence, rule: MetricRule, reading: Reading | None) -> MetricEvidence:
    if reading is None or reading.canary is None or reading.stable is None:
        return each
    return _counted(each, rule, reading) if rule.counted else _compared(each, rule, reading)


def _counted(each: MetricEvidence, rule: MetricRule, reading: Reading) -> MetricEvidence:
    """Fractions, which recorders make when they extrapolate, are rounded down: too few events prove less."""
    mine, other = math.floor(max(reading.canary or 0, 0)), math.floor(max(reading.stable or 0, 0))
    mine_of, other_of = max(reading.canary_of, 0.0), max(reading.stable_of, 0.0)
    share = _tolerated(mine_of / (mine_of + other_of), rule) if mine_of + other_of else 0.0
    ratios = judge.LOWER_RATIOS if rule.better is Better.HIGHER else judge.RATIOS
    return replace(
        each,
        logs=judge.update(judge.stake(each.logs, each.readings), mine, other, share, ratios),
        canary=(each.canary or 0) + mine,
        stable=(each.stable or 0) + other,
        canary_of=each.canary_of + mine_of,
        stable_of=each.stable_of + other_of,
        step_of=each.step_of + mine_of,
        readings=each.readings + 1,
    )


def _tolerated(share: float, rule: MetricRule) -> float:
    """The canary's share of the events when it is as much worse as is tolerated."""
    ratio = 1 - rule.tolerance if rule.better is Better.HIGHER else 1 + rule.tolerance
    return judge.theta(share, ratio)


def _compared(each: MetricEvidence, rule: MetricRule, reading: Reading) -> MetricEvidence:
    worse = _is_worse(rule, reading.canary or 0.0, reading.stable or 0.0)
    return replace(
        each,
        canary=reading.canary,
        stable=reading.stable,
        readings=each.readings + 1,
        worse=each.worse + 1 if worse else 0,
    )


def _is_worse(rule: MetricRule, canary: float, stable: float) -> bool:
    """Beyond the tolerance, which is a share of the stable release's value."""
    room = rule.tolerance * abs(stable)
    return canary < stable - room if rule.better is Better.HIGHER else canary > stable + room


def harm(evidence: Evidence, rules: tuple[MetricRule, ...], e_limit: float) -> str:
    """Which metric says that the canary must go back, as a sentence; empty when none does."""
    for rule, each in _pairs(evidence, rules):
        e = judge.evidence(each.logs)
        if rule.counted and e >= e_limit:
            return f"{rule.name} is worse (E {e:.3g} ≥ {e_limit:.0f}): {_told(rule, each)}"
        if not rule.counted and each.worse >= WORSE_IN_A_ROW:
            return f"{rule.name} was worse at {each.worse} readings in a row: {_told(rule, each)}"
    return ""


def lacking(evidence: Evidence, rules: tuple[MetricRule, ...]) -> str:
    """Which metric is still to be read, as a sentence; empty when none is."""
    known = dict(_pairs(evidence, rules))
    for rule in rules:
        each = known.get(rule) or MetricEvidence(name=rule.name)
        if rule.counted and each.step_of < max(rule.samples, 1):
            return f"{rule.name}: {each.step_of:.0f} of {max(rule.samples, 1)} {rule.per} recorded at this step"
        if not rule.counted and each.readings < WORSE_IN_A_ROW:
            return f"{rule.name}: {each.readings} of {WORSE_IN_A_ROW} readings of both releases at this step"
    return ""


def doubtful(evidence: Evidence, rules: tuple[MetricRule, ...], caution: float) -> str:
    """Which metric looks too bad to go on, as a sentence; empty when none does."""
    for rule, each in _pairs(evidence, rules):
        if each.worse or judge.evidence(each.logs) >= caution:
            return f"{rule.name} looks worse: {_told(rule, each)}"
    return ""


def numbers(evidence: Evidence, rules: tuple[MetricRule, ...]) -> dict[str, float]:
    """For the change log, each under the metric's name. What was never read is left out."""
    found: dict[str, float] = {}
    for rule, each in _pairs(evidence, rules):
        values: Mapping[str, float | None] = {
            "canary": _rate(each.canary, each.canary_of) if rule.counted else each.canary,
            "stable": _rate(each.stable, each.stable_of) if rule.counted else each.stable,
            "e": judge.evidence(each.logs) if rule.counted else None,
        }
        found |= {f"{rule.name}.{what}": value for what, value in values.items() if value is not None}
    return found


def _pairs(evidence: Evidence, rules: tuple[MetricRule, ...]) -> list[tuple[MetricRule, MetricEvidence]]:
    known = {each.name: each for each in evidence.metrics}
    return [(rule, known[rule.name]) for rule in rules if rule.name in known]


def _rate(events: float | None, of: float) -> float | None:
    return events / of if events is not None and of else None


def _told(rule: MetricRule, each: MetricEvidence) -> str:
    if rule.counted:
        return (
            f"{each.canary or 0:.0f} of {each.canary_of:.0f} {rule.per} against {each.stable or 0:.0f} "
            f"of {each.stable_of:.0f}; {rule.better} is better"
        )
    return f"{each.canary or 0:g} against {each.stable or 0:g}; {rule.better} is better"
