"""What it costs the control plane to tell many gateways of many services.

    .venv/bin/python benchmarks/xds.py [--gateways 100] [--services 1000] [--changes 30] [--json]

The gateways are pretended: they take what they are sent through the real server's queue and acknowledge it; so what is
measured is the control plane's part, from the records to the bytes for each gateway; gRPC and Envoy are not in it.
`decide` is records → table → resources → bytes for all; `push` is which bytes each gateway gets, encoded; both are CPU
time, so that a busy machine does not blur them much. Target: a one-service change at 1,000 services decides in ≤ 5 ms.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gapless.control.table import Tables
from gapless.core.model import Address, Entrance, Instance, Phase, Route, Service, Split
from gapless.gateway.envoy.delta import Asked, Snapshot
from gapless.gateway.envoy.parts import Parts
from gapless.gateway.envoy.protos import Messages, load_messages
from gapless.gateway.envoy.resources import CLUSTER, LISTENER, LOAD, ROUTES, RUNTIME, Resources, resources, stages
from gapless.gateway.envoy.xds import Link, XdsServer

ENTRANCE = Entrance(listen=Address(host="127.0.0.1", port=8080))


@dataclass
class Records:
    """A thousand services, each with two instances."""

    count: int
    services: list[Service] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.services = [Service(name=f"s{n}", routes=(Route(path=f"/s{n}"),)) for n in range(self.count)]
        self.splits = [Split(service=s.name, stable="1", weights=(("1", 10_000),)) for s in self.services]
        self.instances = [instance(s.name, n, k) for n, s in enumerate(self.services) for k in range(2)]
        self.instances.append(replace(instance("s0", 0, 9), release="2"))

    def weigh(self, canary: int) -> None:
        self.splits[0] = Split(service="s0", stable="1", weights=(("2", canary), ("1", 10_000 - canary)), salt="s0-1")

    def move(self, port: int) -> None:
        """One instance of the second service is at another address."""
        self.instances[2] = replace(self.instances[2], address=Address(host="127.0.0.1", port=port))


def instance(service: str, n: int, k: int) -> Instance:
    address = Address(host="127.0.0.1", port=10_000 + 2 * n + k)
    return Instance(id=f"{service}-{k}", service=service, release="1", address=address, phase=Phase.READY)


class Gateways:
    """Links of the real server, without gRPC between; each acknowledges what it is sent."""

    def __init__(self, count: int, messages: Messages) -> None:
        self.server = XdsServer(messages, Path("none"), print, print, time.time)
        self.links = [Link() for _ in range(count)]
        self.server._links.update(self.links)
        for link in self.links:
            link.state.asked(Asked(type_url=RUNTIME, subscribe=("gapless-faults",)))
            link.state.asked(Asked(type_url=CLUSTER))
            link.state.asked(Asked(type_url=LISTENER))
            link.state.asked(Asked(type_url=ROUTES, subscribe=("gapless",)))

    def tell(self, truth: Snapshot) -> tuple[int, list[str]]:
        """(bytes for all, what the first one was sent)."""
        self.server._truth = self.server._numbered(truth)
        sent, names = 0, []
        for link in self.links:
            self.server._push(link)
            while link.state.under_way:
                for type_url, told in tuple(link.state.under_way.items()):
                    if link is self.links[0]:
                        names += [f"{type_url.rpartition('.')[2]} {len(told.items)}+{len(told.removed)}"]
                    fresh = tuple(told.items) if type_url == CLUSTER else ()
                    link.state.asked(Asked(type_url=type_url, nonce=told.nonce))
                    if fresh and link.state.level == 0:
                        self._want(link, fresh)
                self.server._push(link)
            while not link.outbox.empty():
                sent += len(link.outbox.get_nowait() or b"")
        assert self.server.settled
        return sent, names

    def _want(self, link: Link, names: tuple[str, ...]) -> None:
        loads = link.state.subscriptions.get(LOAD)
        new = tuple(n for n in names if not loads or n not in loads.names)
        if new:
            link.state.asked(Asked(type_url=LOAD, subscribe=new))


@dataclass
class Plane:
    """The control plane's way from records to bytes."""

    records: Records
    messages: Messages
    tables: Tables = field(default_factory=Tables)
    parts: Parts = field(default_factory=Parts)
    before: Resources | None = None

    def decide(self) -> list[Snapshot]:
        r = self.records
        table = self.tables.table(r.services, r.splits, r.instances, 1)
        wanted = resources(table, ENTRANCE, (), self.parts)
        found = [self.messages.snapshot(stage) for stage in stages(self.before, wanted)]
        self.before = wanted
        return found


def cpu_ms(began: float) -> float:
    return (time.process_time() - began) * 1000


def measure(gateways: int, services: int, changes: int) -> dict[str, Any]:
    messages = load_messages()
    plane, crowd = Plane(Records(services), messages), Gateways(gateways, messages)
    found: dict[str, Any] = {"gateways": gateways, "services": services, "load": os.getloadavg()[0]}
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["first"] = once(plane, crowd)
    found["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb, 1)
    gc.collect()
    gc.freeze()
    plane.records.weigh(1)
    once(plane, crowd)
    weights, moves = [], []
    for n in range(changes):
        plane.records.weigh(n + 2)
        weights.append(once(plane, crowd))
        plane.records.move(50_000 + n)
        moves.append(once(plane, crowd))
    return {**found, "weight": summary(weights), "endpoint": summary(moves)}


def once(plane: Plane, crowd: Gateways) -> dict[str, Any]:
    began = time.process_time()
    truths = plane.decide()
    decide_ms, began = cpu_ms(began), time.process_time()
    told = [crowd.tell(truth) for truth in truths]
    return {
        "decide_ms": round(decide_ms, 2),
        "push_ms": round(cpu_ms(began), 1),
        "bytes_each": sum(sent for sent, _ in told) // len(crowd.links),
        "sent": [name for _, names in told for name in names],
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    decide = sorted(run["decide_ms"] for run in runs)
    return {
        "decide_p50_ms": statistics.median(decide),
        "decide_p95_ms": decide[int(len(decide) * 0.95)],
        "push_p50_ms": statistics.median(run["push_ms"] for run in runs),
        "bytes_each": runs[-1]["bytes_each"],
        "sent": runs[-1]["sent"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.gateways, options.services, options.changes)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['gateways']} gateways, {found['services']} services; load average {found['load']:.1f}")
    first = found["first"]
    costs = f"decide {first['decide_ms']:.0f} ms, push {first['push_ms']:.0f} ms"
    print(f"everything: {costs}, {first['bytes_each']:,} B each")
    print(f"memory for it: {found['memory_mb']} MB")
    for name in ("weight", "endpoint"):
        one = found[name]
        print(
            f"one {name}: decide p50 {one['decide_p50_ms']:.1f} ms, p95 {one['decide_p95_ms']:.1f} ms; push to all "
            f"{one['push_p50_ms']:.1f} ms; {one['bytes_each']:,} B each: {', '.join(one['sent'])}"
        )


if __name__ == "__main__":
    main()
