"""Who finds dead instances how soon, and who takes living ones for dead: a seeded simulation.

    python benchmarks/eyes.py [--instances 1000] [--clients 200] [--broken 0.05] [--seeds 3]

Clients ask random instances, `--rate` times a second each; a share of the clients has a broken network, and nobody
answers them. At a known moment 1 % of the instances die. Beside each other: a time to live of 10 s with a heartbeat
every 3 s; the first complaint of any client; a quorum of witnesses (`discovery.eyes`) that hears of each request at
once, and one that is told once a second, as the registry is (`discovery.sights`); and a complaint that makes the
registry ask the instance itself, as it does when a time to live has lapsed (`discovery.lapse`). A caller itself leaves
out who refused at once.
"""

from __future__ import annotations

import argparse
import statistics
from typing import NamedTuple

from gapless.core.model import Address, Endpoint
from gapless.discovery.eyes import Eyes, Sight
from gapless.discovery.sights import EVERY_S, Sights
from gapless.testing import FakeWorld

TTL_S, BEAT_S = 10.0, 3.0
STEP_S = 0.05
DIE_S, END_S = 12.0, 24.0
PROBE_S = 0.01
"""A round trip of the registry's own question; one that fails is refused as quickly."""


class Found(NamedTuple):
    """By way of finding: how long after its death each was found, and which living ones were taken for dead."""

    delays_s: dict[str, dict[int, float]]
    wrong: dict[str, set[int]]


WAYS = ("TTL", "first complaint", "quorum, at once", "quorum, told each second", "complaint, then probe")


class Caller:
    """What it has seen since its last report, and when the next one is due."""

    def __init__(self, due_at: float) -> None:
        self.sights, self.due_at = Sights(), due_at


class Simulation:
    def __init__(self, instances: int, clients: int, broken: float, rate: float, seed: int) -> None:
        self.dice = FakeWorld(seed).random
        self.instances, self.clients, self.rate = instances, clients, rate
        self.broken = int(clients * broken)
        self.dead = set(range(max(1, instances // 100)))
        self.eyes, self.told = Eyes(), Eyes()
        self.callers = [Caller(self.dice() * EVERY_S) for _ in range(clients)]
        self.places = [
            Endpoint(instance=str(n), release="", address=Address(host="10.0.0.1", port=n)) for n in range(instances)
        ]
        self.found = Found({way: {} for way in WAYS}, {way: set() for way in WAYS})

    def run(self) -> Found:
        for instance in self.dead:
            last_beat = DIE_S - self.dice() * BEAT_S
            self.found.delays_s["TTL"][instance] = last_beat + TTL_S - DIE_S
        for step in range(int(END_S / STEP_S)):
            now = step * STEP_S
            for _ in range(int(self.clients * self.rate * STEP_S)):
                self.ask(int(self.dice() * self.clients), int(self.dice() * self.instances), now)
            for number, caller in enumerate(self.callers):
                if caller.due_at <= now:
                    self.report(number, caller, now)
            if step % 20 == 0:
                self.eyes.forget(now)
                self.told.forget(now)
        return self.found

    def ask(self, client: int, instance: int, now: float) -> None:
        died = instance in self.dead and now >= DIE_S
        sight = Sight.REFUSED if client < self.broken or died else Sight.WELL
        self.eyes.saw(str(client), str(instance), sight, now)
        self.callers[client].sights.saw("stock", self.places[instance], sight)
        if sight is Sight.WELL:
            return
        self.verdict("first complaint", instance, now)
        if died:
            self.verdict("complaint, then probe", instance, now + PROBE_S)
        if not self.eyes.opinion(str(instance), now).healthy:
            self.verdict("quorum, at once", instance, now)

    def report(self, client: int, caller: Caller, now: float) -> None:
        caller.due_at = now + EVERY_S * (0.75 + self.dice() / 2)
        report = caller.sights.take()
        for one in report:
            self.told.saw(str(client), one.id, one.sight, now)
        for one in report:
            if one.sight is not Sight.WELL and not self.told.opinion(one.id, now).healthy:
                self.verdict("quorum, told each second", int(one.id), now)

    def verdict(self, way: str, instance: int, now: float) -> None:
        if instance in self.dead and now >= DIE_S:
            self.found.delays_s[way].setdefault(instance, now - DIE_S)
        elif instance not in self.dead:
            self.found.wrong[way].add(instance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--broken", type=float, default=0.05)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    runs = [
        Simulation(asked.instances, asked.clients, asked.broken, asked.rate, seed).run() for seed in range(asked.seeds)
    ]
    print(
        f"{asked.instances} instances, {asked.clients} clients, {asked.broken:.0%} of them broken, {asked.seeds} seeds"
    )
    print(f"{'':26}{'found':>10}{'p50 s':>10}{'p99 s':>10}{'falsely evicted':>18}")
    dead = max(1, asked.instances // 100) * asked.seeds
    for way in WAYS:
        delays = sorted(delay for run in runs for delay in run.delays_s[way].values())
        p50, p99 = (statistics.median(delays), delays[int(len(delays) * 0.99)]) if delays else (float("nan"),) * 2
        wrong = sum(len(run.wrong[way]) for run in runs) / asked.seeds
        print(f"{way:26}{len(delays):>6}/{dead:<3}{p50:>10.2f}{p99:>10.2f}{wrong:>18g}")


if __name__ == "__main__":
    main()
