"""What each balancer achieves, by simulation: 8 callers, 20 servers with 4 places each and a queue, seeded.

    python benchmarks/balance.py [--seeds 20] [--seconds 20] [--only p2c_peak_ewma,least_request]

A cell is the median over the seeds of the p99 in ms, and half the distance between its quartiles; for failing servers
the share of failed requests. All balancers meet the same seeds. Asked for: p99 of peak EWMA at most 1.2 times that of
least_request in every scenario, errors by a fast-failing server below 0.1 %, at most 1.3/N of the keys moved by one
server more, and at least one probe per tau to a server that has recovered. The line below a scenario says how peak EWMA
stands to least_request in each seed. What a pick costs is measured on this machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from gapless.core.model import Address, Endpoint
from gapless.core.world import RealWorld
from gapless.discovery.balance import View, choose
from gapless.discovery.balancers import BALANCERS
from gapless.discovery.load import SLOW_START_S, TAU_S, Outcome, fresh
from gapless.discovery.loads import Loads
from gapless.testing import FakeWorld
from gapless.testing.queueing import Server, simulate

MEAN_S = 0.02
SERVERS = 20
CALLERS = 8


class Scenario(NamedTuple):
    servers: Callable[[], list[Server]]
    load: float = 0.7
    errors: bool = False
    homes: Sequence[str] = ()
    hot: float = 0.0


def mixed() -> list[Server]:
    return [Server(MEAN_S * (0.5, 1.0, 1.0, 2.0, 4.0)[n % 5]) for n in range(SERVERS)]


def stragglers() -> list[Server]:
    return [Server(MEAN_S * (5 if n < 2 else 1)) for n in range(SERVERS)]


NEVER = (math.inf, math.inf)
SCENARIOS: dict[str, Scenario] = {
    "homogeneous, 70 %": Scenario(lambda: [Server(MEAN_S) for _ in range(SERVERS)]),
    "homogeneous, 90 %": Scenario(lambda: [Server(MEAN_S) for _ in range(SERVERS)], load=0.9),
    "heavy tail": Scenario(lambda: [Server(MEAN_S, sigma=1.5) for _ in range(SERVERS)]),
    "mixed speeds": Scenario(mixed),
    "2 of 20 five times slower": Scenario(stragglers),
    "one failing fast": Scenario(
        lambda: [Server(MEAN_S, fails=1.0 if n == 0 else 0.0) for n in range(SERVERS)], load=0.5, errors=True
    ),
    "one refusing for a while": Scenario(
        lambda: [Server(MEAN_S, out=(4.0, 12.0) if n == 0 else NEVER) for n in range(SERVERS)], load=0.5, errors=True
    ),
    "one key asks 20 %": Scenario(lambda: [Server(MEAN_S) for _ in range(SERVERS)], hot=0.2),
    "6 of 8 callers in one zone": Scenario(
        lambda: [Server(MEAN_S, zone="ab"[n % 2]) for n in range(SERVERS)], homes=("a", "a", "a", "b")
    ),
    "all failing 2 %": Scenario(lambda: [Server(MEAN_S, fails=0.02) for _ in range(SERVERS)]),
}


def one(scenario: str, balancer: str, seed: int, seconds: float) -> float:
    """p99 in ms, or the share of errors in per cent."""
    what = SCENARIOS[scenario]
    dice = FakeWorld(seed).random
    result = simulate(
        what.servers(),
        load=what.load,
        seconds=seconds,
        dice=dice,
        rule=BALANCERS[balancer],
        callers=CALLERS,
        homes=what.homes,
        hot=what.hot,
    )
    return result.errors * 100 if what.errors else result.p99_s * 1000


def shown(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return f"{middle:,.3g} ±{(high - low) / 2:.2g}"


def moved(n: int, keys: int = 20_000) -> float:
    """The share of keys that one server more moves, times N."""

    def owner(key: int, among: int) -> int:
        names = [b"instance-%d" % number for number in range(among)]
        view = View(loads=[fresh(0.0)] * among, now=1.0, names=names, key=str(key))
        return choose(view, BALANCERS["consistent_hash"])

    return sum(owner(key, n) != owner(key, n + 1) for key in range(keys)) / keys * (n + 1)


def recovered(balancer: str, seed: int) -> tuple[float, float]:
    """A server is out for half a minute: seconds from its return to the first request, and how many requests it gets
    per tau until it has slow start behind it, at the least."""
    back = 35.0
    servers = [Server(MEAN_S, out=(5.0, back) if n == 0 else NEVER) for n in range(SERVERS)]
    dice = FakeWorld(seed).random
    simulate(servers, load=0.1, seconds=back + 3 * TAU_S, dice=dice, rule=BALANCERS[balancer], callers=CALLERS)
    asked = servers[0].asked
    first = min((at for at in asked if at >= back), default=math.inf) - back
    per_tau = min(sum(start <= at < start + TAU_S for at in asked) for start in (back, back + TAU_S, back + 2 * TAU_S))
    return first, per_tau


def newcomer(balancer: str, seed: int) -> tuple[float, float]:
    """The share of a new server in all requests, beside its fair one: in its first second, and after slow start."""
    servers = [Server(MEAN_S, since=0.0 if n == 0 else -100.0) for n in range(SERVERS)]
    dice = FakeWorld(seed).random
    simulate(servers, load=0.2, seconds=2 * SLOW_START_S, dice=dice, rule=BALANCERS[balancer], callers=CALLERS)

    def share(since: float, until: float) -> float:
        counts = [sum(since <= at < until for at in server.asked) for server in servers]
        return counts[0] / sum(counts) * SERVERS

    return share(0.0, 1.0), share(SLOW_START_S, 2 * SLOW_START_S)


def pick_us(balancer: str, instances: int, dead: int = 0) -> float:
    """Microseconds for one choice among so many, with what is noted of its end; the best of five rounds. `dead` of them
    have refused."""
    endpoints = tuple(
        Endpoint(instance=f"i{n}", release="", address=Address(host="10.0.0.1", port=n + 1), zone="ab"[n % 2])
        for n in range(instances)
    )
    loads = Loads(RealWorld(), balancer, "a")
    for endpoint in endpoints[:dead]:
        loads.ended(endpoint.address, 0.001, Outcome.REFUSED)
    rounds = []
    picks = max(20_000 // instances, 200)
    for _ in range(5):
        began = time.perf_counter()
        for number in range(picks):
            chosen = loads.choose(endpoints, (), str(number))
            assert chosen is not None
            loads.ended(chosen.address, 0.01, Outcome.ANSWERED)
        rounds.append((time.perf_counter() - began) / picks * 1e6)
    return min(rounds)


def line(title: str, balancers: Sequence[str], show: Callable[[str], str]) -> None:
    print(f"{title:31}" + "".join(f"{show(name):>24}" for name in balancers), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="simulated")
    parser.add_argument("--only", default=",".join(BALANCERS), help="balancers")
    parser.add_argument("--scenarios", default="", help="only those whose names hold this")
    options = parser.parse_args()
    balancers = options.only.split(",")
    line("", balancers, str)
    with ProcessPoolExecutor() as pool:
        for scenario, what in SCENARIOS.items():
            if options.scenarios in scenario:
                table(pool, scenario, what, balancers, options)
        details(pool, balancers, min(options.seeds, 3))


def table(
    pool: ProcessPoolExecutor, scenario: str, what: Scenario, balancers: Sequence[str], options: argparse.Namespace
) -> None:
    runs = {
        balancer: [pool.submit(one, scenario, balancer, seed, options.seconds) for seed in range(options.seeds)]
        for balancer in balancers
    }
    values = {balancer: [run.result() for run in each] for balancer, each in runs.items()}
    line(f"{scenario}{', % errors' if what.errors else ''}", balancers, lambda name: shown(values[name]))
    if {"p2c_peak_ewma", "least_request"} <= set(balancers) and not what.errors:
        pairs = zip(values["p2c_peak_ewma"], values["least_request"], strict=True)
        print(f"{'  peak EWMA / least_request':31}{shown([a / b for a, b in pairs]):>24}")


def details(pool: ProcessPoolExecutor, balancers: Sequence[str], seeds: int) -> None:
    back = {name: list(pool.map(recovered, [name] * seeds, range(seeds))) for name in balancers}
    line("back after 30 s: first, s", balancers, lambda name: shown([first for first, _ in back[name]]))
    line("  requests per tau, least", balancers, lambda name: f"{min(count for _, count in back[name]):g}")
    new = {name: list(pool.map(newcomer, [name] * seeds, range(seeds))) for name in balancers}
    line("new: share in its first second", balancers, lambda name: shown([first for first, _ in new[name]]))
    line("  share after slow start", balancers, lambda name: shown([later for _, later in new[name]]))
    for instances in (10, 1000):
        line(f"µs a pick, {instances} instances", balancers, lambda name, n=instances: f"{pick_us(name, n):.1f}")
    line("  10 of 1000 dead", balancers, lambda name: f"{pick_us(name, 1000, 10):.1f}")
    for n in (5, 20):
        print(f"consistent_hash: one server more than {n} moves {moved(n):.3f}/N of the keys")


if __name__ == "__main__":
    main()
