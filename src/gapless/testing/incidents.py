"""Made-up incidents with a known culprit, to hold `observe.incident_blame` to.

    case = made(seed)
    blame(case.scene, case.candidates)[0].number == case.culprit

Six changes of all kinds come within an hour, one of which breaks something: at once, slowly, for a share of the users,
or in a service that others need. What is seen of it is counted and noisy: requests come and go in waves, errors happen
by themselves, latencies wander, and a harmless change may leave a small mark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gapless.observe.incident_blame import Candidate, Scene, Side, Symptom
from gapless.observe.judge import wilson_lower
from gapless.testing.world import Dice

STEP_S = 15.0
BINS = 360
FIRST_S, LAST_S = 1_800.0, 4_200.0
"""Between these moments of the hour and a half changes are made."""
AFTER_S = 90.0
"""How long after the alert the suspects are weighed."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "web": ("orders", "search"),
    "orders": ("payment", "inventory"),
    "search": ("inventory",),
    "payment": (),
    "inventory": (),
    "mail": (),
}
FAULTS = ("errors", "latency", "leak", "downstream", "config", "canary")
HARMLESS = ("rollout", "rollout", "config", "config", "scale", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An incident. `fault`: which of FAULTS; `culprit`: the number of the change that did it."""

    seed: int
    fault: str
    scene: Scene
    candidates: tuple[Candidate, ...]
    culprit: int
    detected_at: float


class Chance:
    """Distributions from dice that fall the same on every version of Python."""

    def __init__(self, seed: int) -> None:
        self._dice = Dice(seed * 7_919 + 17)

    def unit(self) -> float:
        return (self._dice.roll() >> 11) / (1 << 53)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def one_of(self, items: tuple[str, ...]) -> str:
        return items[int(self.unit() * len(items))]

    def normal(self) -> float:
        return math.sqrt(-2 * math.log(1 - self.unit())) * math.cos(2 * math.pi * self.unit())

    def count(self, mean: float) -> int:
        """Poisson, by its normal approximation where that is good enough."""
        if mean > 50:
            return max(round(mean + math.sqrt(mean) * self.normal()), 0)
        limit, k, p = math.exp(-mean), 0, self.unit()
        while p > limit:
            k, p = k + 1, p * self.unit()
        return k


@dataclass(slots=True)
class _Damage:
    """What a change does to its service: the share of its requests that fail, and how many times slower they are, from
    `since_s` on; over `ramp_s` it grows."""

    service: str
    since_s: float
    errors: float = 0.0
    slower: float = 1.0
    ramp_s: float = 0.0

    def at(self, now_s: float) -> float:
        """How much of it is there (0…1)."""
        if now_s < self.since_s:
            return 0.0
        return min((now_s - self.since_s) / self.ramp_s, 1.0) if self.ramp_s else 1.0


@dataclass(slots=True)
class _Planned:
    """A change as it was made. `reach`: pairs (moment, share of the users)."""

    kind: str
    service: str
    at_s: float
    reach: tuple[tuple[float, float], ...]
    damage: _Damage | None = None

    def share(self, now_s: float) -> float:
        return next((share for at, share in reversed(self.reach) if now_s >= at), 0.0)


def made(seed: int, fault: str = "") -> Case:
    """One incident. Without `fault` the kinds take turns."""
    fault = fault or FAULTS[seed % len(FAULTS)]
    for salt in range(20):
        chance = Chance(seed * 100 + salt)
        culprit = _culprit(chance, fault)
        changes = [culprit, *_harmless(chance, culprit)]
        changes.sort(key=lambda change: change.at_s)
        world = _World(chance, changes)
        if (case := world.case(seed, fault, changes.index(culprit) + 1)) is not None:
            return case
    raise AssertionError(f"seed {seed}: nothing that breaks is ever noticed")


def _culprit(chance: Chance, fault: str) -> _Planned:
    at_s = chance.between(FIRST_S, LAST_S)
    service = chance.one_of(("web", "orders", "search", "payment", "inventory", "mail"))
    kind, reach = "rollout", _steps(chance, at_s)
    damage = _Damage(service=service, since_s=at_s)
    match fault:
        case "errors":
            damage.errors = chance.between(0.02, 0.4)
        case "latency":
            damage.slower = chance.between(1.8, 5.0)
        case "leak":
            damage.since_s += chance.between(60.0, 480.0)
            damage.ramp_s, damage.errors, damage.slower = 900.0, chance.between(0.05, 0.3), chance.between(1.5, 3.0)
        case "downstream":
            damage.service = service = chance.one_of(("payment", "inventory"))
            damage.errors, damage.slower = chance.between(0.02, 0.3), chance.between(1.0, 2.5)
        case "config":
            kind, reach = "config", ((at_s, 1.0),)
            damage.since_s += chance.between(0.0, 60.0)
            damage.errors = chance.between(0.01, 0.3)
        case "canary":
            reach = ((at_s, chance.between(0.05, 0.25)),)
            damage.errors = chance.between(0.2, 0.6)
    return _Planned(kind, service, at_s, reach, damage)


def _steps(chance: Chance, at_s: float) -> tuple[tuple[float, float], ...]:
    hold_s = chance.between(30.0, 120.0)
    return ((at_s, 0.05), (at_s + hold_s, 0.25), (at_s + 2 * hold_s, 1.0))


def _harmless(chance: Chance, culprit: _Planned) -> list[_Planned]:
    """Five: three within the half hour before or just after, two close to it, of which every other one is of the same
    service or of one that needs it."""
    at_s = culprit.at_s
    close = (culprit.service, *(name for name, needs in NEEDS.items() if culprit.service in needs))
    found = []
    for number in range(5):
        near = number >= 3
        moment_s = at_s + (chance.between(-300.0, 120.0) if near else chance.between(-1_700.0, 60.0))
        kind = chance.one_of(HARMLESS)
        service = chance.one_of(close if near and chance.unit() < 0.5 else tuple(NEEDS))
        reach = _steps(chance, moment_s) if kind == "rollout" else ((moment_s, 1.0),)
        mark = _Damage(service=service, since_s=moment_s, slower=chance.between(0.96, 1.05))
        found.append(_Planned(kind, service, moment_s, reach, mark if chance.unit() < 0.4 else None))
    return found


class _World:
    """An hour and a half of all services in steps of a quarter of a minute."""

    def __init__(self, chance: Chance, changes: list[_Planned]) -> None:
        self._changes = changes
        self.requests: dict[str, list[int]] = {name: [] for name in NEEDS}
        self.errors: dict[str, list[int]] = {name: [] for name in NEEDS}
        self.p99: dict[str, list[float]] = {name: [] for name in NEEDS}
        self._sides: dict[tuple[str, str], list[Side]] = {}
        self._chance = chance
        self._rate = {name: chance.between(20.0, 120.0) for name in NEEDS}
        self._base = {name: chance.between(0.0002, 0.003) for name in NEEDS}
        self._usual_s = {name: chance.between(0.05, 0.4) for name in NEEDS}
        self._passes = {name: chance.between(0.2, 0.9) for name in NEEDS}
        self._wander = dict.fromkeys(NEEDS, 0.0)
        self._phase = chance.between(0.0, 6.0)
        blip_s = chance.between(FIRST_S, LAST_S)
        self._blip = (chance.one_of(tuple(NEEDS)), blip_s, blip_s + chance.between(15.0, 30.0))
        for index in range(BINS):
            self._step(index * STEP_S)

    def _step(self, now_s: float) -> None:
        failing: dict[str, float] = {}
        slow: dict[str, float] = {}
        for name in reversed(list(NEEDS)):  # those that are needed come behind those that need them
            failing[name], slow[name] = self._harm(name, now_s)
            for other in NEEDS[name]:
                failing[name] += self._passes[name] * failing[other] / len(NEEDS[name])
                slow[name] *= 1 + 0.5 * (slow[other] - 1) / len(NEEDS[name])
        for name in NEEDS:
            self._observe(name, now_s, failing[name], slow[name])

    def _harm(self, name: str, now_s: float) -> tuple[float, float]:
        failing, slow = 0.0, 1.0
        for change in self._changes:
            if change.damage and change.damage.service == name:
                there = change.damage.at(now_s) * change.share(now_s)
                failing += change.damage.errors * there
                slow *= 1 + (change.damage.slower - 1) * there
        owner, since_s, until_s = self._blip
        return failing + (0.03 if owner == name and since_s <= now_s < until_s else 0.0), slow

    def _observe(self, name: str, now_s: float, failing: float, slow: float) -> None:
        chance = self._chance
        wave = 1 + 0.3 * math.sin(now_s / 2_400.0 + self._phase)
        requests = chance.count(self._rate[name] * wave * STEP_S)
        rate = min(self._base[name] + failing, 0.95)
        errors = min(chance.count(requests * rate), requests)
        self._wander[name] = 0.6 * self._wander[name] + 0.07 * chance.normal()
        self.requests[name].append(requests)
        self.errors[name].append(errors)
        self.p99[name].append(self._usual_s[name] * slow * math.exp(self._wander[name]))
        self._compare(name, now_s, requests, errors)

    def _compare(self, name: str, now_s: float, requests: int, errors: int) -> None:
        """By release, while two serve side by side."""
        took_s = self.p99[name][-1]
        for number, change in enumerate(self._changes, 1):
            share = change.share(now_s)
            if change.kind != "rollout" or change.service != name or not 0 < share < 1:
                continue
            there = change.damage.at(now_s) if change.damage else 0.0
            worse, slower = (
                (change.damage.errors * there, 1 + (change.damage.slower - 1) * there) if change.damage else (0.0, 1.0)
            )
            base = max(errors / max(requests, 1) - worse * share, 0.0)
            mine = min(self._chance.count(requests * share * min(base + worse, 1.0)), errors)
            old_s = took_s / (1 + (slower - 1) * share)
            side = Side(
                at=now_s,
                new_requests=requests * share,
                new_errors=mine,
                old_requests=requests * (1 - share),
                old_errors=errors - mine,
                new_s=old_s * slower * math.exp(0.15 * self._chance.normal()),
                old_s=old_s * math.exp(0.05 * self._chance.normal()),
            )
            self._sides.setdefault((name, f"r{number}"), []).append(side)

    def case(self, seed: int, fault: str, culprit: int) -> Case | None:
        alerts = {name: bin_ for name in NEEDS if (bin_ := self._noticed(name)) is not None}
        if not alerts:
            return None
        detected_s = (min(alerts.values()) + 1) * STEP_S
        until = int((detected_s + AFTER_S) / STEP_S)
        alerted = tuple(sorted((name for name, bin_ in alerts.items() if bin_ <= until), key=alerts.__getitem__))
        scene = Scene(
            alerted=alerted,
            since_at=detected_s - 2 * STEP_S,
            needs=NEEDS,
            symptoms=tuple(symptom for name in NEEDS for symptom in self._symptoms(name, until)),
            sides={key: [s for s in sides if s.at < until * STEP_S] for key, sides in self._sides.items()},
        )
        candidates = tuple(
            self._candidate(number, change, until * STEP_S) for number, change in enumerate(self._changes, 1)
        )
        known = tuple(each for each in candidates if each.at <= until * STEP_S)
        if culprit not in [each.number for each in known]:
            return None  # the passing trouble of somebody else was noticed first
        return Case(seed=seed, fault=fault, scene=scene, candidates=known, culprit=culprit, detected_at=detected_s)

    def _noticed(self, name: str) -> int | None:
        """The first bin at whose end the errors or the latency have been over their bound for long enough."""
        usual = sorted(self.p99[name][:100])[50]
        bad = slow = 0
        for index in range(int(FIRST_S / STEP_S), BINS):
            errors = sum(self.errors[name][index - 1 : index + 1])
            sure = wilson_lower(errors, sum(self.requests[name][index - 1 : index + 1]), 2.0)
            bad = bad + 1 if sure > 0.005 else 0
            slow = slow + 1 if self.p99[name][index] > 1.5 * usual else 0
            if bad >= 4 or slow >= 8:
                return index
        return None

    def _symptoms(self, name: str, until: int) -> tuple[Symptom, Symptom]:
        rows = list(zip(self.requests[name], self.errors[name], strict=True))[:until]
        shares = tuple((n * STEP_S, errors / max(requests, 1)) for n, (requests, errors) in enumerate(rows))
        took = tuple((n * STEP_S, value) for n, value in enumerate(self.p99[name][:until]))
        return (
            Symptom(service=name, kind="share", name="errors", points=shares),
            Symptom(service=name, kind="seconds", name="p99", points=took),
        )

    def _candidate(self, number: int, change: _Planned, until_s: float) -> Candidate:
        reached = [(at, share) for at, share in change.reach if at <= until_s] or list(change.reach[:1])
        plain = Candidate(
            kind=change.kind,
            number=number,
            service=change.service if change.kind != "gateway" else "",
            at=change.at_s,
            what=f"{change.kind} of {change.service}",
            moments=tuple(at for at, _ in reached),
            share=reached[-1][1],
        )
        if change.kind != "rollout":
            return plain
        return replace(plain, newcomer=f"r{number}", stable=f"r{number}-before")
