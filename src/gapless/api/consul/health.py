"""`/v1/health`: instances with their nodes and checks, and checks by node, service and status."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.api.consul import select, shapes
from gapless.api.consul.answer import Answer, bad_request
from gapless.api.consul.latest import Latest, asked
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.api.consul.watches import Watches
from gapless.discovery.catalog import topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import CheckRow

STATES = ("any", "unknown", "passing", "warning", "critical")


class HealthEndpoints:
    def __init__(self, catalog: Catalog, watches: Watches) -> None:
        self._catalog, self._watches = catalog, watches
        self._latest = Latest()

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/health/service/", {"GET": self.service})
        yield Route("/v1/health/checks/", {"GET": self.checks})
        yield Route("/v1/health/node/", {"GET": self.node})
        yield Route("/v1/health/state/", {"GET": self.state})
        # Without a mesh no service is reached through one.
        yield Route("/v1/health/connect/", {"GET": self.connect})
        yield Route("/v1/health/ingress/", {"GET": self.connect})

    async def service(self, request: Request) -> Answer:
        if not request.rest:
            raise bad_request("Missing service name")
        of, passing = topic.health(request.rest), request.true("passing")
        await self._watches.until(request, self._catalog.topics, of)
        index = self._catalog.index(of)
        key = (request.rest, index, self._catalog.view.said, asked(request.query))
        return Answer(self._latest.body(key, lambda: self._instances(request, passing)), index=index)

    def _instances(self, request: Request, passing: bool) -> bytes:
        found = self._catalog.instances(request.rest, passing=passing)
        chosen = select.chosen(request, found, self._catalog.name)
        return shapes.array(select.kept(request, map(shapes.health, chosen)))

    async def checks(self, request: Request) -> Answer:
        if not request.rest:
            raise bad_request("Missing service name")
        of = topic.checks_of(request.rest)
        await self._watches.until(request, self._catalog.topics, of)
        return self._listed(request, of, self._catalog.checks_of(request.rest))

    async def node(self, request: Request) -> Answer:
        if not request.rest:
            raise bad_request("Missing node name")
        of = topic.checks_on(request.rest)
        await self._watches.until(request, self._catalog.topics, of)
        return self._listed(request, of, self._catalog.checks_on(request.rest))

    async def state(self, request: Request) -> Answer:
        if request.rest not in STATES:
            raise bad_request(f"Missing check state: {request.rest!r} is none of {', '.join(STATES)}")
        of = topic.state(request.rest)
        await self._watches.until(request, self._catalog.topics, of)
        return self._listed(request, of, self._catalog.checks_in(request.rest))

    async def connect(self, request: Request) -> Answer:
        select.keeper(request)
        return Answer(b"[]", index=self._catalog.index(topic.SERVICES))

    def _listed(self, request: Request, of: topic.Topic, rows: Iterable[CheckRow]) -> Answer:
        chosen = select.by_meta(request, rows, self._catalog.node)
        ordered = select.near(request, chosen, self._catalog.name, lambda row: row.check.node)
        return Answer(shapes.array(select.kept(request, map(shapes.indexed, ordered))), index=self._catalog.index(of))
