"""What one caller has seen of the instances of a service, and its choice among them.

A pick shall not cost more among a thousand instances than the rule itself needs. So what a view takes is prepared once
per listing, and who may be asked is brought up to date when somebody is ejected or comes back, not at each pick.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gapless.core.errors import UnknownName
from gapless.core.model import Address, Endpoint
from gapless.core.ports import World
from gapless.discovery.balance import Rule, Standing, View, choose, enough, standing_of
from gapless.discovery.balancers import BALANCERS, DEFAULT
from gapless.discovery.load import Load, Outcome, begun, due, ended, fresh

MOST_BENCHES = 16
"""Listings that are prepared at a time: a service has few releases, and a new table makes all of them anew."""


class Bench:
    """Endpoints that are picked from together, and their loads. `zone` is the caller's."""

    def __init__(self, endpoints: Sequence[Endpoint], loads: Sequence[Load], zone: str) -> None:
        self.endpoints = endpoints
        self.loads = list(loads)
        self.weights = [each.weight for each in endpoints] if any(each.weight != 1.0 for each in endpoints) else ()
        self.names = [each.instance.encode() for each in endpoints]
        self.zones = [each.zone for each in endpoints]
        near = [index for index, place in enumerate(self.zones) if place == zone]
        far = [index for index, place in enumerate(self.zones) if place != zone]
        self.by_zone = (near, far) if zone else None
        self.places = {each.address: index for index, each in enumerate(endpoints)}
        self._well = Standing(range(len(endpoints)), ())
        """How they stand while nobody is ejected."""
        self._ejected = {index for index, load in enumerate(self.loads) if load.ejected}
        self._fit: Sequence[int] | None = None

    def put(self, address: Address, load: Load) -> None:
        """What is known of one of them has changed."""
        index = self.places.get(address)
        if index is None:
            return
        if load.ejected != self.loads[index].ejected:
            self._ejected ^= {index}
            self._fit = None
        self.loads[index] = load

    def standing(self, now: float) -> Standing:
        """As `balance.standing_of` the loads, without looking at each of them."""
        if not self._ejected:
            return self._well
        probes = sorted(index for index in self._ejected if due(self.loads[index], now))
        if not enough(len(self.loads) - len(self._ejected) + len(probes), len(self.loads)):
            return standing_of(self.loads, now)
        if self._fit is None:
            self._fit = [index for index in self._well.among if index not in self._ejected]
        return Standing(sorted((*self._fit, *probes)) if probes else self._fit, probes)


class Loads:
    """Loads by address: an instance that comes back elsewhere is another one to its callers. `zone` is the caller's."""

    def __init__(self, world: World, balance: str = DEFAULT, zone: str = "") -> None:
        self._world = world
        self._rule = rule(balance)
        self._zone = zone
        self._turn = 0
        self._loads: dict[Address, Load] = {}
        self._benches: dict[int, tuple[Sequence[Endpoint], list[Bench]]] = {}
        """By the identity of the listing that they were made of, which they hold."""

    def choose(self, endpoints: Sequence[Endpoint], tried: Collection[Address], key: str = "") -> Endpoint | None:
        """The one to ask now, for a request that belongs to `key`; None when all have been tried. Draining ones only
        when there is nobody else. The same sequence again must not have changed meanwhile."""
        now = self._world.now()
        for bench in self._of(endpoints, now):
            standing = self._untried(bench, tried, now) if tried else bench.standing(now)
            if standing.among:
                index = choose(self._view(bench, now, key), self._rule, standing)
                chosen = bench.endpoints[index]
                self._turn += 1
                self._put(chosen.address, begun(bench.loads[index], now))
                return chosen
        return None

    def ended(self, address: Address, took_s: float, outcome: Outcome) -> None:
        """Tell how the request to a chosen endpoint ended."""
        now = self._world.now()
        self._put(address, ended(self._seen(address, now), now, took_s, outcome))

    def of(self, address: Address) -> Load | None:
        """What is known of an address."""
        return self._loads.get(address)

    def forget_but(self, known: Collection[Address]) -> None:
        """Drop what is known of addresses that no longer exist and that nobody waits for."""
        self._benches.clear()
        gone = [a for a, load in self._loads.items() if a not in known and not load.in_flight]
        for address in gone:
            del self._loads[address]

    def _of(self, endpoints: Sequence[Endpoint], now: float) -> list[Bench]:
        """Those that are not draining, then the others."""
        held = self._benches.get(id(endpoints))
        if held is not None and held[0] is endpoints:
            return held[1]
        benches = []
        for draining in (False, True):
            some = [each for each in endpoints if each.draining is draining]
            if some:
                benches.append(Bench(some, [self._seen(each.address, now) for each in some], self._zone))
        if len(self._benches) >= MOST_BENCHES:
            self._benches.clear()
        self._benches[id(endpoints)] = endpoints, benches
        return benches

    def _untried(self, bench: Bench, tried: Collection[Address], now: float) -> Standing:
        left = [index for index, each in enumerate(bench.endpoints) if each.address not in tried]
        among, probes = standing_of([bench.loads[index] for index in left], now)
        return Standing([left[place] for place in among], [left[place] for place in probes])

    def _view(self, bench: Bench, now: float, key: str) -> View:
        dice = self._world.random
        return View(
            loads=bench.loads,
            now=now,
            one=dice(),
            other=dice(),
            third=dice(),
            turn=self._turn,
            weights=bench.weights,
            names=bench.names,
            zones=bench.zones,
            zone=self._zone,
            by_zone=bench.by_zone,
            key=key,
        )

    def _seen(self, address: Address, now: float) -> Load:
        load = self._loads.get(address)
        if load is None:
            load = self._loads[address] = fresh(now)
        return load

    def _put(self, address: Address, load: Load) -> None:
        self._loads[address] = load
        for _, benches in self._benches.values():
            for bench in benches:
                bench.put(address, load)


def rule(name: str) -> Rule:
    """The balancer of that name. Raises UnknownName."""
    if name not in BALANCERS:
        raise UnknownName(f"there is no balancer {name!r}", f"There are: {', '.join(BALANCERS)}.")
    return BALANCERS[name]
