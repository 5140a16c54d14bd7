"""`/v1/agent`: the services that are registered with this agent, which is on its node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NoReturn

from msgspec import UNSET, structs

from gapless.api.consul import select, shapes
from gapless.api.consul.answer import DONE, TEXT, Answer, Refusal, bad_request, encode, not_found
from gapless.api.consul.registrations import ServiceBody, checks_of, instance_of
from gapless.api.consul.request import TRUTHS, Request
from gapless.api.consul.router import Route
from gapless.core.errors import GaplessError
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import CommandsForbidden, NotRegistered
from gapless.discovery.catalog.values import Check, Found, Instance, InstanceRow, Status

AGGREGATED = {Status.PASSING: 200, Status.WARNING: 429, Status.CRITICAL: 503}
"""What load balancers read from the status of `agent/health/service`."""


def refused(error: GaplessError) -> NoReturn:
    """The registry's refusal as Consul words it. Raises Refusal."""
    if isinstance(error, CommandsForbidden):
        raise Refusal(500, str(error)) from error
    raise Refusal(404 if isinstance(error, NotRegistered) else 400, error.what) from error


def enabled(request: Request) -> bool:
    """`?enable` of maintenance, which must be said. Raises Refusal."""
    if not request.has("enable"):
        raise bad_request("Missing value for enable")
    text = request.text("enable")
    if not text or text not in TRUTHS:
        raise bad_request(f'Invalid value for enable: "{text}"')
    return TRUTHS[text]


class AgentServices:
    def __init__(self, catalog: Catalog, *, script_checks: bool = False) -> None:
        self._catalog, self._script_checks = catalog, script_checks

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/agent/services", {"GET": self.services})
        yield Route("/v1/agent/service/", {"GET": self.service})
        yield Route("/v1/agent/service/register", {"PUT": self.register})
        yield Route("/v1/agent/service/deregister/", {"PUT": self.deregister})
        yield Route("/v1/agent/service/maintenance/", {"PUT": self.maintenance})
        yield Route("/v1/agent/health/service/id/", {"GET": self.health_of_instance})
        yield Route("/v1/agent/health/service/name/", {"GET": self.health_of_service})

    async def register(self, request: Request) -> Answer:
        body = request.json(ServiceBody)
        replace = request.true("replace-existing-checks")
        instance, checks = instance_of(body), checks_of(body)
        self._allow(checks)
        await self._registered(instance, checks, replace)
        if body.connect and (sidecar := body.connect.sidecar_service) is not None:
            await self._registered(_sidecar(instance, sidecar.port), (), replace)
        return DONE

    async def _registered(self, instance: Instance, checks: Sequence[Check], replace: bool) -> None:
        try:
            await self._catalog.register(instance, checks, replace=replace)
        except GaplessError as error:
            refused(error)

    async def deregister(self, request: Request) -> Answer:
        try:
            await self._catalog.deregister(request.rest)
        except NotRegistered as error:
            refused(error)
        return DONE

    async def maintenance(self, request: Request) -> Answer:
        if not request.rest:
            raise bad_request("Missing service ID")
        on = enabled(request)
        try:
            await self._catalog.maintain(request.rest, on, request.text("reason"))
        except NotRegistered as error:
            refused(error)
        return DONE

    async def services(self, request: Request) -> Answer:
        keep = select.keeper(request)
        shown = {row.instance.id: shapes.local(row, self._catalog.datacenter) for row in self._catalog.own_instances()}
        return Answer(shapes.mapping({name: one for name, one in shown.items() if keep(one)}))

    async def service(self, request: Request) -> Answer:
        found = self._catalog.instance(request.rest)
        if found is None:
            raise not_found(f"unknown service ID: {request.rest}")
        return Answer(self._with_hash(found.row), extra=((b"x-consul-contenthash", _hash(found.row)),))

    def _with_hash(self, row: InstanceRow) -> bytes:
        shown = shapes.local(row, self._catalog.datacenter)
        return b'%b,"ContentHash":"%b"}' % (shown[:-1], _hash(row))

    async def health_of_instance(self, request: Request) -> Answer:
        found = self._catalog.instance(request.rest)
        if found is None:
            raise not_found(f"ServiceId {request.rest} not found")
        return self._aggregated(request, found.status, self._health(found))

    async def health_of_service(self, request: Request) -> Answer:
        rows = [row for row in self._catalog.own_instances() if row.instance.service == request.rest]
        if not rows:
            raise not_found(f"ServiceName {request.rest} Not Found")
        found = [self._catalog.view.found(row) for row in rows]
        status = max((one.status for one in found), key=lambda status: AGGREGATED.get(Status(status), 503))
        return self._aggregated(request, status, shapes.array(map(self._health, found)))

    def _health(self, found: Found) -> bytes:
        service = shapes.local(found.row, self._catalog.datacenter)
        checks = shapes.array(map(shapes.indexed, found.checks))
        return b'{"AggregatedStatus":%b,"Service":%b,"Checks":%b}' % (encode(found.status), service, checks)

    def _aggregated(self, request: Request, status: str, body: bytes) -> Answer:
        code = AGGREGATED.get(Status(status), 503)
        if request.text("format") == "text":
            return Answer(status.encode(), code, kind=TEXT)
        return Answer(body, code)

    def _allow(self, checks: Iterable[Check]) -> None:
        """Raises Refusal."""
        if not self._script_checks and any(check.definition.args for check in checks):
            refused(CommandsForbidden())


def _hash(row: InstanceRow) -> bytes:
    return blake2b(row.raw, digest_size=8).hexdigest().encode()


def _sidecar(instance: Instance, port: int) -> Instance:
    """What `Connect.SidecarService` stands for: an instance of its own, whose proxy somebody else runs."""
    identity = instance.id or instance.service
    proxy = {
        "DestinationServiceName": instance.service,
        "DestinationServiceID": identity,
        "LocalServiceAddress": "127.0.0.1",
        "LocalServicePort": instance.port,
    }
    return structs.replace(
        instance,
        id=f"{identity}-sidecar-proxy",
        service=f"{instance.service}-sidecar-proxy",
        port=port,
        kind="connect-proxy",
        proxy=proxy,
        socket_path=UNSET,
    )
