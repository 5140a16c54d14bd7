"""Callers that balance over servers with queues: a seeded discrete-event simulation, to see what a rule achieves before
a real system has to.

Poisson arrivals at each of several callers, which know only what they have seen themselves; each server works on
`slots` requests at a time and lets the rest wait, first come, first served.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gapless.core.model import Address, Endpoint
from gapless.discovery.balance import Rule, View, choose
from gapless.discovery.balancers import p2c_peak_ewma
from gapless.discovery.load import Outcome, begun, ended, fresh
from gapless.discovery.loads import Bench

WARM_UP = 0.1
"""The first tenth is not counted: queues begin empty."""
FAILURE_S = 0.001
"""How long a failing answer takes: less than any healthy one."""
REFUSAL_S = 0.0005

Dice = Callable[[], float]
"""Uniform in [0, 1), such as `FakeWorld(seed).random`: the same dice, the same result."""


@dataclass(slots=True)
class Server:
    """`mean_s` is the mean time of a request; times are exponential, or lognormal with `sigma` for a heavy tail.
    `fails` is the share of requests that fail at once. From `out[0]` to `out[1]` nobody is there, and connections are
    refused. `since` is when callers began to know it: slow start counts from there."""

    mean_s: float
    slots: int = 4
    fails: float = 0.0
    sigma: float = 0.0
    out: tuple[float, float] = (math.inf, math.inf)
    zone: str = ""
    since: float = -100.0
    busy: int = 0
    done: int = 0
    asked: list[float] = field(default_factory=list)
    """When it was asked, answered or not."""
    waiting: deque[Request] = field(default_factory=deque)

    def work(self, dice: Dice, now: float) -> tuple[float, Outcome]:
        """How long the next request takes, and how it ends."""
        if self.out[0] <= now < self.out[1]:
            return REFUSAL_S, Outcome.REFUSED
        if self.fails and dice() < self.fails:
            return FAILURE_S, Outcome.FAILED
        if self.sigma:
            normal = math.sqrt(2 * _exponential(dice)) * math.cos(2 * math.pi * dice())  # Box and Muller 1958
            return self.mean_s * math.exp(self.sigma * normal - self.sigma**2 / 2), Outcome.ANSWERED
        return self.mean_s * _exponential(dice), Outcome.ANSWERED

    @property
    def per_s(self) -> float:
        """What it can do."""
        return self.slots / self.mean_s


class Request(NamedTuple):
    since: float
    caller: int
    server: int


class Result(NamedTuple):
    p50_s: float
    p99_s: float
    errors: float
    """Share of requests that failed or were refused."""
    shares: list[float]
    """Of each server in all requests."""


def simulate(
    servers: Sequence[Server],
    *,
    load: float,
    seconds: float,
    dice: Dice,
    rule: Rule = p2c_peak_ewma,
    callers: int = 2,
    homes: Sequence[str] = (),
    hot: float = 0.0,
) -> Result:
    """Run for so many simulated seconds at `load` times the capacity of all servers. The servers are used up by it.

    `homes` are the zones of the callers, in turn; `hot` is the share of requests that belong to one and the same key.
    """
    rate = load * sum(server.per_s for server in servers)
    return _Run(servers, rate, seconds, dice, rule, callers, homes, hot).run()


class _Run:
    def __init__(
        self,
        servers: Sequence[Server],
        rate: float,
        seconds: float,
        dice: Dice,
        rule: Rule,
        callers: int,
        homes: Sequence[str],
        hot: float,
    ) -> None:
        self.servers, self.rate, self.seconds, self.dice, self.rule = servers, rate, seconds, dice, rule
        places = [
            Endpoint(instance=str(n), release="", address=Address(host="server", port=n), zone=server.zone)
            for n, server in enumerate(servers)
        ]
        self.homes = [homes[number % len(homes)] if homes else "" for number in range(callers)]
        self.known = [Bench(places, [fresh(server.since) for server in servers], home) for home in self.homes]
        self.hot = hot
        self.turns = [0] * callers
        self.events: list[tuple[float, int, Request | None, Outcome]] = []
        self.count = 0
        self.took: list[float] = []
        self.failed = 0

    def run(self) -> Result:
        self._plan(_exponential(self.dice) / self.rate, None)
        while self.events:
            now, _, request, outcome = heapq.heappop(self.events)
            if request is None:
                self._arrive(now)
            else:
                self._end(now, request, outcome)
        self.took.sort()
        total = sum(server.done for server in self.servers)
        return Result(
            self.took[len(self.took) // 2],
            self.took[int(len(self.took) * 0.99)],
            self.failed / len(self.took),
            [server.done / total for server in self.servers],
        )

    def _plan(self, at: float, request: Request | None, outcome: Outcome = Outcome.ANSWERED) -> None:
        self.count += 1
        heapq.heappush(self.events, (at, self.count, request, outcome))

    def _arrive(self, now: float) -> None:
        if now < self.seconds:
            self._plan(now + _exponential(self.dice) / self.rate, None)
        caller = int(self.dice() * len(self.known))
        bench = self.known[caller]
        server = choose(self._view(caller, now), self.rule, bench.standing(now))
        self.turns[caller] += 1
        bench.put(bench.endpoints[server].address, begun(bench.loads[server], now))
        self.servers[server].asked.append(now)
        self.servers[server].waiting.append(Request(now, caller, server))
        self._begin(now, self.servers[server])

    def _view(self, caller: int, now: float) -> View:
        one, other, third = self.dice(), self.dice(), self.dice()
        bench = self.known[caller]
        return View(
            loads=bench.loads,
            now=now,
            one=one,
            other=other,
            third=third,
            turn=self.turns[caller],
            names=bench.names,
            zones=bench.zones,
            zone=self.homes[caller],
            by_zone=bench.by_zone,
            key="hot" if self.hot and self.dice() < self.hot else f"{third:.3f}",
        )

    def _begin(self, now: float, server: Server) -> None:
        while server.waiting and server.busy < server.slots:
            server.busy += 1
            length, outcome = server.work(self.dice, now)
            self._plan(now + length, server.waiting.popleft(), outcome)

    def _end(self, now: float, request: Request, outcome: Outcome) -> None:
        server = self.servers[request.server]
        server.busy -= 1
        server.done += 1
        bench, index = self.known[request.caller], request.server
        bench.put(bench.endpoints[index].address, ended(bench.loads[index], now, now - request.since, outcome))
        if now > self.seconds * WARM_UP:
            self.took.append(now - request.since)
            self.failed += outcome is not Outcome.ANSWERED
        self._begin(now, server)


def _exponential(dice: Dice) -> float:
    """Of mean 1."""
    return -math.log1p(-dice())
