"""The topology: gateway and services in layers, with what flows between them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gapless.console.fleet import NOW_S, Row, row
from gapless.console.incidents import troubled
from gapless.console.lately import together
from gapless.console.layers import Place, Point, layout
from gapless.console.sight import Sight
from gapless.core.model import Instance, Phase
from gapless.core.model.alert import Alert

GATEWAY = "gateway"
WARN_RATE, BAD_RATE = 0.005, 0.05
"""Shares of errors at which an edge is drawn in another colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """From one node to another. `rate` is None where nobody counts it; `needed`: declared by `needs`."""

    source: str
    target: str
    path: str
    x: float
    y: float
    """Where its label is."""
    rate: float | None
    error_rate: float | None
    tone: str
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    place: Place
    row: Row | None
    """None for the gateway."""
    title: str
    subtitle: str
    tone: str
    aside: tuple[str, ...] = ()
    """Instances that get no request now, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyView:
    width: float
    height: float
    nodes: tuple[Node, ...]
    flows: tuple[Flow, ...]
    elsewhere: int
    """Gateways beside that of this machine. They do not tell whom they have ejected."""
    troubles: tuple[tuple[str, str], ...]
    """Service and sentence."""


async def topology_view(sight: Sight, _: Mapping[str, str]) -> TopologyView:
    services = sight.records.services()
    slots = {s.name: await sight.answered(s.name) for s in services}
    edges = [(GATEWAY, s.name) for s in services if s.routes]
    edges += [(s.name, need) for s in services for need in s.needs]
    calls = await sight.recorded.calls(sight.at)
    edges += [edge for edge in sorted(calls) if edge[0] in slots and edge[1] in slots]
    breakers = await sight.recorded.breakers(sight.at)
    alarming = troubled(sight.records.all_of(Alert))
    graph = layout([GATEWAY, *(s.name for s in services)], edges)
    rows = {
        s.name: row(
            s,
            sight.records.split(s.name),
            sight.records.instances(s.name),
            sight.records.rollout(s.name),
            slots[s.name],
            sight.at,
            alarm=s.name in alarming,
        )
        for s in services
    }
    now = {s.name: together(slots[s.name], sight.at, NOW_S) for s in services if s.routes}
    rates = calls | {(GATEWAY, name): (slot.rate, slot.error_rate) for name, slot in now.items()}
    nodes = [_gateway(graph.places[GATEWAY], sight, sum(slot.rate for slot in now.values()))]
    told = await sight.gateways.told(sight.at)
    ejected, elsewhere = told.ejected, told.elsewhere
    nodes += [_node(rows[s.name], graph.places[s.name], sight.records.instances(s.name), ejected) for s in services]
    flows = [_flow(source, target, way, rates.get((source, target))) for (source, target), way in graph.ways.items()]
    return TopologyView(
        width=graph.width,
        height=graph.height,
        nodes=tuple(nodes),
        flows=tuple(flows),
        elsewhere=len(elsewhere),
        troubles=(
            *((node.name, text) for node in nodes for text in node.aside),
            *((service, f"breaker {guard} is {state}") for service, guard, state in breakers),
            *gateway_troubles(elsewhere),
        ),
    )


def _gateway(place: Place, sight: Sight, rate: float) -> Node:
    gateway = sight.plane.gateway
    running = bool(gateway.pid)
    restarts = f", restarted {gateway.restarts} times" if gateway.restarts else ""
    return Node(
        name=GATEWAY,
        place=place,
        row=None,
        title="gateway",
        subtitle=f"{sight.plane.system.gateway.listen}{restarts}" if running else "does not run",
        tone="good" if running else "bad",
    )


def _node(of: Row, place: Place, instances: Sequence[Instance], ejected: Collection[str]) -> Node:
    releases = " · ".join(share.release for share in of.shares)
    return Node(
        name=of.name,
        place=place,
        row=of,
        title=of.name,
        subtitle=releases or "no release yet",
        tone=of.tone,
        aside=tuple(set_aside(instances, ejected)),
    )


def gateway_troubles(elsewhere: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Gateways elsewhere that do not obey the newest routes, and why."""
    found = []
    for each in elsewhere:
        if each["refused"]:
            found.append((str(each["node"]), f"refuses the newest routes: {each['refused']}"))
        elif each["lagging"]:
            found.append((str(each["node"]), "does not answer, and goes on with the routes that it has"))
    return found


def set_aside(instances: Iterable[Instance], ejected: Collection[str] = ()) -> list[str]:
    """Who gets no new request although it runs. `ejected`: addresses."""
    return [why for instance in instances if (why := _why_aside(instance, ejected))]


def _why_aside(instance: Instance, ejected: Collection[str]) -> str:
    if instance.phase is Phase.UNREADY:
        return f"{instance.id} is unready: {instance.detail.partition(chr(10))[0] or 'no reason told'}"
    if instance.phase is Phase.READY and str(instance.address) in ejected:
        return f"{instance.id} ({instance.release}) is ejected by the gateway for a while: it failed too often in a row"
    return ""


def _flow(source: str, target: str, way: Sequence[Point], figures: tuple[float, float | None] | None) -> Flow:
    rate, errors = figures or (None, None)
    (x1, y1), (x2, y2) = way[:2] if len(way) == 2 else way[1:3]  # in its lane, if it has one: nobody else is there
    return Flow(
        source=source,
        target=target,
        path=curve(way),
        x=(x1 + x2) / 2,
        y=(y1 + y2) / 2,
        rate=rate,
        error_rate=errors,
        tone="bad" if errors and errors > BAD_RATE else "warn" if errors and errors > WARN_RATE else "plain",
        width=1.5 if not rate else min(1.5 + rate**0.5 / 4, 5.0),
    )


def curve(way: Sequence[Point]) -> str:
    """Path data: level at each point, bent between two columns, straight through a lane."""
    path = f"M{way[0][0]:g},{way[0][1]:g}"
    for (x1, y1), (x2, y2) in pairwise(way):
        bend = (x2 - x1) / 2
        path += f"C{x1 + bend:g},{y1:g} {x2 - bend:g},{y2:g} {x2:g},{y2:g}"
    return path
