"""Which change is to blame for an incident: a score for each, the sum of what speaks for and against it. Pure.

Everything is a logarithm of a likelihood ratio (roughly; the weights were set by hand and hold on simulated incidents,
`benchmarks/blame.py`):

- **kind**: rollouts and experiments break things more often than scaling.
- **time**: trouble begins within minutes of its cause, rarely after an hour, and never before it.
- **place**: the service itself, or one that it needs; one whose own need is in trouble is rather a victim.
- **effect**: the series of the changed service rose, or bent upwards, at the moment of the change.
- **split**: while two releases serve side by side, the newcomer fails and the stable one does not.
- **reach**: a release with 5 % of the users cannot fail 30 % of the requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from gapless.core.model.incident import Suspect
from gapless.observe.incident_fit import Fit, fit_rise

KINDS = {"rollout": 0.0, "experiment": 1.5, "config": -0.2, "gateway": -0.7, "scale": -1.2, "change": -1.6}
ELSE = -5.0
"""The score of "something else": what no change did."""
SLACK_S = 45.0
"""By how much an onset may be read too early: a window of 30 s and a scrape."""
QUICK_S, SLOW_S, LONGEST_S = 60.0, 900.0, 7_200.0
"""Lags: most faults show within a minute, leaks within a quarter of an hour; beyond two hours all are alike."""
EFFECT_WITHIN_S, EFFECT_LATEST_S = 90.0, 900.0
"""A series that rises so shortly after a change rose with it; up to the latest, ever less likely so."""
LAG_STEP_S, LAG_COST = 90.0, 0.4
RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
LEAST_SIDES = 3
LEAST_SPREAD = 0.15
"""Of the logarithm of a p99 between two releases that are alike."""
WORST = -8.0
"""No single kind of evidence decides everything."""
SUSPECTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A change before the end of the incident. `moments`: when it took hold, for a rollout at each step; `share`: of
    the requests that it reached at most (0…1), 1 where nothing is split."""

    kind: str
    number: int
    service: str
    at: float
    what: str
    who: str = ""
    moments: tuple[float, ...] = ()
    share: float = 1.0
    newcomer: str = ""
    stable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """A series of a service in which bad is up. `kind`: what its values are."""

    service: str
    kind: Literal["share", "seconds", "value"]
    name: str
    """For people: `errors`, `p99`."""
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What the newcomer and the stable release of a service answered in the same moments. Latencies (p99, seconds): 0
    where nothing is known."""

    at: float
    new_requests: float
    new_errors: float
    old_requests: float
    old_errors: float
    new_s: float = 0.0
    old_s: float = 0.0


@dataclass(frozen=True)
class Scene:
    """All that is known of an incident. `alerted`: services with alerts; `needs`: who needs whom; `sides`: by service
    and newcomer, while two releases served side by side."""

    alerted: tuple[str, ...]
    since_at: float
    """When the first alert began to hold."""
    needs: Mapping[str, Sequence[str]]
    symptoms: tuple[Symptom, ...]
    sides: Mapping[tuple[str, str], Sequence[Side]] = field(default_factory=dict)

    @cached_property
    def fits(self) -> dict[tuple[str, str], Fit]:
        """Of each symptom."""
        return {(each.service, each.name): fit_rise(_levelled(each)) for each in self.symptoms}

    def fits_of(self, service: str) -> list[tuple[str, Fit]]:
        """Those of a service that have changed, the clearest first."""
        found = [(name, fit) for (owner, name), fit in self.fits.items() if owner == service and fit.changed]
        return sorted(found, key=lambda pair: -pair[1].gain)

    @cached_property
    def onset_at(self) -> float:
        """When it began: by the clearest series of a service that is alerted, never after the alert."""
        fits = [fit for service in self.alerted for _, fit in self.fits_of(service)]
        onset = max(fits, key=lambda fit: fit.gain).onset_at if fits else self.since_at
        return min(onset, self.since_at)

    @cached_property
    def troubled(self) -> frozenset[str]:
        """Services with an alert, or with a series that has clearly risen."""
        return frozenset(self.alerted) | {owner for (owner, _), fit in self.fits.items() if fit.changed}

    @cached_property
    def victims(self) -> frozenset[str]:
        """Troubled services that need a troubled one."""
        return frozenset(s for s in self.troubled if self.troubled & set(reached(s, self.needs)) - {s})


def reached(service: str, needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """All that a service needs, with the number of steps to it."""
    found, edge = {service: 0}, [service]
    while edge:
        edge = [other for one in edge for other in needs.get(one, ()) if other not in found]
        found |= dict.fromkeys(edge, max(found.values()) + 1)
    return found


def blame(scene: Scene, candidates: Sequence[Candidate]) -> tuple[Suspect, ...]:
    """The suspects, the likeliest first."""
    weighed = [_weigh(scene, each) for each in candidates]
    scores = [sum(suspect.numbers.values()) for suspect in weighed]
    highest = max([*scores, ELSE])
    weights = [math.exp(score - highest) for score in scores]
    total = sum(weights) + math.exp(ELSE - highest)
    ranked = sorted(zip(weights, weighed, strict=True), key=lambda pair: -pair[0])
    return tuple(replace(suspect, probability=weight / total) for weight, suspect in ranked[:SUSPECTS])


def _weigh(scene: Scene, candidate: Candidate) -> Suspect:
    parts = {
        "kind": (KINDS.get(candidate.kind, KINDS["change"]), ""),
        "time": _time(scene, candidate),
        "place": _place(scene, candidate),
        "effect": _effect(scene, candidate),
        "split": _split(scene, candidate),
        "reach": _reach(scene, candidate),
    }
    told = sorted((part for part in parts.values() if part[1]), key=lambda part: -abs(part[0]))
    return Suspect(
        kind=candidate.kind,
        number=candidate.number,
        service=candidate.service,
        at=candidate.at,
        what=candidate.what,
        who=candidate.who,
        evidence=tuple(text for _, text in told),
        numbers={name: round(score, 3) for name, (score, _) in parts.items()},
    )


Part = tuple[float, str]


def _moments(candidate: Candidate) -> tuple[float, ...]:
    return candidate.moments or (candidate.at,)


def _time(scene: Scene, candidate: Candidate) -> Part:
    """The density of the lag beside that of a change at any time."""
    lags = [scene.onset_at - moment for moment in _moments(candidate)]
    past = [max(lag, 0.0) for lag in lags if lag >= -SLACK_S]
    if not past:
        return WORST, f"it came {_span(-max(lags))} after the trouble had begun"
    lag = min(past)
    density = 0.6 * _exponential(lag, QUICK_S) + 0.35 * _exponential(lag, SLOW_S) + 0.05 / LONGEST_S
    return max(math.log(density * LONGEST_S), WORST), f"the trouble began {_span(lag)} after it"


def _exponential(lag_s: float, mean_s: float) -> float:
    return math.exp(-lag_s / mean_s) / mean_s


def _place(scene: Scene, candidate: Candidate) -> Part:
    name = candidate.service
    if name in scene.alerted and name not in scene.victims:
        return 1.0, f"{name} is in trouble, and nothing that it needs is"
    distances = [reached(alerted, scene.needs).get(name) for alerted in scene.alerted]
    near = min((each for each in distances if each is not None), default=None)
    if name in scene.troubled and name not in scene.victims:
        return 1.0, f"{name}, which {scene.alerted[0]} needs, is in trouble" if near else f"{name} is in trouble"
    if name in scene.victims:
        causes = sorted(scene.troubled & set(reached(name, scene.needs)) - {name})
        return -1.5, f"{name} is in trouble, but so is {causes[0]}, which it needs"
    if near is not None:
        return -1.0 * near, f"{scene.alerted[0]} needs {name}, which shows nothing itself"
    calls = any(alerted in reached(name, scene.needs) for alerted in scene.alerted)
    if calls or not name:
        return -2.0, f"{name} calls {scene.alerted[0]}" if name else "it concerns all services"
    return -5.0, f"{name} has nothing to do with {', '.join(scene.alerted)}"


def _effect(scene: Scene, candidate: Candidate) -> Part:
    """What the series say: those of the changed service, or else those of the alerted ones."""
    own = scene.fits_of(candidate.service)
    fits = own or [pair for alerted in scene.alerted for pair in scene.fits_of(alerted)]
    if not fits:
        return 0.0, ""
    best = max(fits, key=lambda pair: pair[1].gain)
    closeness = max(max(_closeness(best[1], moment) for moment in _moments(candidate)), WORST)
    strength = min(best[1].gain / 4, 3.0) if own else 0.0
    owner = candidate.service if own else scene.alerted[0]
    if closeness > -2.0:
        return strength + closeness, f"{best[0]} of {owner} rose at that moment"
    return closeness, f"{best[0]} of {owner} rose at another moment, {_span(abs(best[1].onset_at - candidate.at))} away"


def _closeness(fit: Fit, moment: float) -> float:
    """How well the rise is explained by one that began at a moment or somewhat later."""
    near = fit.near(moment - SLACK_S, moment + EFFECT_WITHIN_S)
    later = [
        fit.near(moment + lag_s, moment + lag_s + LAG_STEP_S) - LAG_COST * (lag_s / LAG_STEP_S) for lag_s in _lags()
    ]
    return max([near, *later])


def _lags() -> list[float]:
    return [EFFECT_WITHIN_S + LAG_STEP_S * n for n in range(int((EFFECT_LATEST_S - EFFECT_WITHIN_S) / LAG_STEP_S))]


def _split(scene: Scene, candidate: Candidate) -> Part:
    """Both releases in the same moments, so that nothing that befell both speaks against either."""
    sides = scene.sides.get((candidate.service, candidate.newcomer), ()) if candidate.newcomer else ()
    if not sides:
        return 0.0, ""
    errors, slow = _more_errors(sides), _slower(sides)
    if max(errors, slow) > 2.0:
        what = "failed more often" if errors >= slow else "was slower"
        return min(max(errors, slow), -WORST), f"{candidate.newcomer} {what} than {candidate.stable} beside it"
    late = [side for side in sides if side.at >= scene.onset_at]
    if len(late) >= LEAST_SIDES and candidate.service in scene.troubled:
        return -3.0, f"{candidate.newcomer} was no worse than {candidate.stable} beside it during the trouble"
    return 0.0, ""


def _more_errors(sides: Sequence[Side]) -> float:
    """How much likelier the errors fell as they did if the newcomer fails r times as often, at the best r: the
    e-process of `judge`, looked at once."""
    rows = [
        (side.new_errors, side.old_errors, side.new_requests / (side.new_requests + side.old_requests))
        for side in sides
        if side.new_requests > 0 and side.old_requests > 0 and side.new_errors + side.old_errors > 0
    ]
    return max((sum(_gain(*row, ratio) for row in rows) for ratio in RATIOS), default=0.0)


def _gain(new: float, old: float, share: float, ratio: float) -> float:
    theta = share * ratio / (share * ratio + 1 - share)
    return new * math.log(theta / share) + old * math.log((1 - theta) / (1 - share))


def _slower(sides: Sequence[Side]) -> float:
    """The same for latencies: the mean of their logarithms' difference, beside its spread."""
    apart = [math.log(side.new_s / side.old_s) for side in sides if side.new_s > 0 and side.old_s > 0]
    n = len(apart)
    if n < LEAST_SIDES:
        return 0.0
    mean = sum(apart) / n
    spread = max(math.sqrt(sum((each - mean) ** 2 for each in apart) / (n - 1)), LEAST_SPREAD)
    return n * mean * mean / (2 * spread * spread) if mean > 0 else 0.0


def _reach(scene: Scene, candidate: Candidate) -> Part:
    """What it could do at most, beside what happened at its service."""
    if candidate.share >= 0.99:
        return 0.0, ""
    errors = [each for each in scene.symptoms if each.service == candidate.service and each.kind == "share"]
    late = [value for each in errors for at, value in each.points if at >= scene.onset_at]
    if not late or max(late) < 0.02:
        return 0.0, ""
    level = sorted(late)[len(late) // 2]
    if level > 1.3 * candidate.share:
        return -4.0, f"{level:.0%} of all requests failed, and it had {candidate.share:.0%} of them at most"
    return 0.0, ""


def _levelled(symptom: Symptom) -> list[tuple[float, float]]:
    """With noise of the same size everywhere: a share by the arcsine, what is positive by its logarithm."""
    match symptom.kind:
        case "share":
            return [(at, math.asin(math.sqrt(min(max(value, 0.0), 1.0)))) for at, value in symptom.points]
        case "seconds":
            return [(at, math.log(value)) for at, value in symptom.points if value > 0]
        case _:
            return list(symptom.points)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
