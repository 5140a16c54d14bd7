"""`/v1/catalog`: nodes and services as they are registered, by whomever."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.api.consul import select, shapes
from gapless.api.consul.answer import TRUE, Answer, bad_request, failed, told
from gapless.api.consul.registrations import (
    NodeBody,
    RemovalBody,
    catalog_checks_of,
    instance_of,
    node_of,
)
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.api.consul.watches import Watches
from gapless.discovery.catalog import topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import Invalid
from gapless.discovery.catalog.values import InstanceRow


class CatalogEndpoints:
    def __init__(self, catalog: Catalog, watches: Watches) -> None:
        self._catalog, self._watches = catalog, watches

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/catalog/register", {"PUT": self.register})
        yield Route("/v1/catalog/deregister", {"PUT": self.deregister})
        yield Route("/v1/catalog/datacenters", {"GET": self.datacenters})
        yield Route("/v1/catalog/nodes", {"GET": self.nodes})
        yield Route("/v1/catalog/services", {"GET": self.services})
        yield Route("/v1/catalog/service/", {"GET": self.service})
        yield Route("/v1/catalog/node/", {"GET": self.node})
        yield Route("/v1/catalog/node-services/", {"GET": self.node_services})
        # Without a mesh no service is reached through one.
        yield Route("/v1/catalog/connect/", {"GET": self.connect})
        yield Route("/v1/catalog/gateway-services/", {"GET": self.connect})

    async def register(self, request: Request) -> Answer:
        body = request.json(NodeBody)
        self._check_datacenter(body.datacenter)
        instance = instance_of(body.service) if body.service else None
        try:
            await self._catalog.put(node_of(body), instance, catalog_checks_of(body), keep_node=body.skip_node_update)
        except Invalid as error:
            raise bad_request(error.what) from error
        return TRUE

    async def deregister(self, request: Request) -> Answer:
        body = request.json(RemovalBody)
        self._check_datacenter(body.datacenter)
        if not body.node:
            raise bad_request("Must provide node")
        await self._catalog.remove(body.node, instance=body.service_id, check=body.check_id)
        return TRUE

    async def datacenters(self, _: Request) -> Answer:
        return told([self._catalog.datacenter])

    async def nodes(self, request: Request) -> Answer:
        await self._watches.until(request, self._catalog.topics, topic.NODES)
        metas = select.metas_of(request)
        rows = [row for row in self._catalog.nodes() if select.has_meta(row, metas)]
        ordered = select.near(request, rows, self._catalog.name, lambda row: row.node.name)
        body = shapes.array(select.kept(request, map(shapes.indexed, ordered)))
        return Answer(body, index=self._catalog.index(topic.NODES))

    async def services(self, request: Request) -> Answer:
        await self._watches.until(request, self._catalog.topics, topic.SERVICES)
        whole = not request.has("node-meta") and not request.has("filter")
        found = self._catalog.services() if whole else self._tags_of_chosen(request)
        return told(found, self._catalog.index(topic.SERVICES))

    def _tags_of_chosen(self, request: Request) -> dict[str, tuple[str, ...]]:
        """The services of the instances that are asked for, with their tags. Raises Refusal."""
        keep = select.keeper(request)
        found: dict[str, dict[str, None]] = {}
        for service in sorted(self._catalog.view.services):
            for one in select.chosen(request, self._catalog.view.instances(service), self._catalog.name):
                if keep(shapes.flat(one)):
                    found.setdefault(service, {}).update(dict.fromkeys(one.instance.tags))
        return {service: tuple(tags) for service, tags in found.items()}

    async def service(self, request: Request) -> Answer:
        if not request.rest:
            raise bad_request("Missing service name")
        of = topic.instances(request.rest)
        await self._watches.until(request, self._catalog.topics, of)
        found = select.chosen(request, self._catalog.view.instances(request.rest), self._catalog.name)
        return Answer(shapes.array(select.kept(request, map(shapes.flat, found))), index=self._catalog.index(of))

    async def node(self, request: Request) -> Answer:
        """Null for a node that there is not."""
        of, services = await self._on_node(request)
        by_id = shapes.mapping({row.instance.id: shapes.indexed(row) for row in services})
        return self._with_node(request.rest, by_id, of)

    async def node_services(self, request: Request) -> Answer:
        of, services = await self._on_node(request)
        return self._with_node(request.rest, shapes.array(map(shapes.indexed, services)), of)

    def _with_node(self, node: str, services: bytes, of: topic.Topic) -> Answer:
        row = self._catalog.node(node)
        body = b'{"Node":%b,"Services":%b}' % (shapes.indexed(row), services) if row else shapes.NULL
        return Answer(body, index=self._catalog.index(of))

    async def _on_node(self, request: Request) -> tuple[topic.Topic, list[InstanceRow]]:
        if not request.rest:
            raise bad_request("Missing node name")
        of = topic.node(request.rest)
        await self._watches.until(request, self._catalog.topics, of)
        keep = select.keeper(request)
        return of, [row for row in self._catalog.instances_on(request.rest) if keep(shapes.indexed(row))]

    async def connect(self, request: Request) -> Answer:
        select.keeper(request)
        return Answer(b"[]", index=self._catalog.index(topic.SERVICES))

    def _check_datacenter(self, given: str) -> None:
        if given and given != self._catalog.datacenter:
            raise failed("No path to datacenter")
