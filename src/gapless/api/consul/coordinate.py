"""`/v1/coordinate`: where nodes lie in the network, as they tell it themselves. In memory: they
tell it all the time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from gapless.api.consul.answer import DONE, Answer, Refusal, bad_request, told
from gapless.api.consul.bodies import Body
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.api.consul.watches import Watches
from gapless.discovery.topics import Topics

DIMENSIONS = 8
COORDINATES = "coordinates"
NODES_KEPT = 10_000
"""Coordinates of more nodes than this are not taken: they live in memory."""


class Coordinate(msgspec.Struct, rename="pascal", frozen=True, forbid_unknown_fields=True):
    """Vivaldi's (Dabek and others 2004), with Consul's height and adjustment. Seconds."""

    adjustment: float = 0.0
    error: float = 1.5
    height: float = 1e-5
    vec: tuple[float, ...] = (0.0,) * DIMENSIONS


class Update(Body):
    node: str = ""
    segment: str = ""
    coord: Coordinate | None = None


class Coordinates:
    """`datacenter`: ours."""

    def __init__(self, watches: Watches, node: str, datacenter: str) -> None:
        self._watches = watches
        self._node = node
        self._datacenter = datacenter
        self._topics = Topics()
        self._topics.move(COORDINATES, 1)
        self._known: dict[str, Coordinate] = {}

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/coordinate/datacenters", {"GET": self.datacenters})
        yield Route("/v1/coordinate/nodes", {"GET": self.nodes})
        yield Route("/v1/coordinate/node/", {"GET": self.node})
        yield Route("/v1/coordinate/update", {"PUT": self.update})

    async def datacenters(self, _: Request) -> Answer:
        name = f"{self._node}.{self._datacenter}"
        ours = [{"Node": name, "Coord": self._known.get(name, Coordinate())}]
        return told([{"Datacenter": self._datacenter, "AreaID": "wan", "Coordinates": ours}])

    async def nodes(self, request: Request) -> Answer:
        await self._watches.until(request, self._topics, COORDINATES)
        return told([self._shown(node) for node in sorted(self._known)], self._topics.index(COORDINATES))

    async def node(self, request: Request) -> Answer:
        await self._watches.until(request, self._topics, COORDINATES)
        index = self._topics.index(COORDINATES)
        if request.rest not in self._known:
            return Answer(b"", 404, index)
        return told([self._shown(request.rest)], index)

    async def update(self, request: Request) -> Answer:
        update = request.json(Update)
        if not update.node or update.coord is None:
            raise bad_request("Request decode failed: Node and Coord are needed")
        if len(update.coord.vec) != DIMENSIONS:
            raise bad_request("rejected bad coordinate: incompatible dimensionality")
        if update.node not in self._known and len(self._known) >= NODES_KEPT:
            raise Refusal(503, f"coordinates of {NODES_KEPT} nodes are kept already")
        self._known[update.node] = update.coord
        self._topics.move(COORDINATES, self._topics.index(COORDINATES) + 1)
        return DONE

    def _shown(self, node: str) -> dict[str, Any]:
        return {"Node": node, "Segment": "", "Coord": self._known[node]}
