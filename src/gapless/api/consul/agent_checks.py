"""`/v1/agent`: the checks that this agent runs or is told of, and the maintenance of its node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from gapless.api.consul import select, shapes
from gapless.api.consul.agent_services import enabled, refused
from gapless.api.consul.answer import DONE, Answer, Refusal, bad_request
from gapless.api.consul.registrations import CheckBody, UpdateBody, check_of
from gapless.api.consul.request import Request
from gapless.api.consul.router import Handler, Route
from gapless.core.errors import GaplessError
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import CommandsForbidden, NotRegistered
from gapless.discovery.catalog.values import WORSE, Status

Heard = Callable[[str, str, str], Awaitable[None]]
"""Takes a check id, its status, and what is said: a heartbeat."""


class AgentChecks:
    def __init__(self, catalog: Catalog, heard: Heard, *, script_checks: bool = False) -> None:
        self._catalog, self._heard, self._script_checks = catalog, heard, script_checks

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/agent/checks", {"GET": self.checks})
        yield Route("/v1/agent/check/register", {"PUT": self.register})
        yield Route("/v1/agent/check/deregister/", {"PUT": self.deregister})
        yield Route("/v1/agent/check/pass/", {"PUT": self._told(Status.PASSING)})
        yield Route("/v1/agent/check/warn/", {"PUT": self._told(Status.WARNING)})
        yield Route("/v1/agent/check/fail/", {"PUT": self._told(Status.CRITICAL)})
        yield Route("/v1/agent/check/update/", {"PUT": self.update})
        yield Route("/v1/agent/maintenance", {"PUT": self.maintenance})

    async def checks(self, request: Request) -> Answer:
        keep = select.keeper(request)
        shown = {row.check.id: shapes.check_without_index(row) for row in self._catalog.own_checks()}
        return Answer(shapes.mapping({name: one for name, one in shown.items() if keep(one)}))

    async def register(self, request: Request) -> Answer:
        check = check_of(request.json(CheckBody))
        if check.definition.args and not self._script_checks:
            refused(CommandsForbidden())
        try:
            await self._catalog.register_check(check)
        except NotRegistered as error:
            raise Refusal(404, error.what) from error
        except GaplessError as error:
            refused(error)
        return DONE

    async def deregister(self, request: Request) -> Answer:
        try:
            await self._catalog.deregister_check(request.rest)
        except NotRegistered as error:
            refused(error)
        return DONE

    def _told(self, status: Status) -> Handler:
        async def told(request: Request) -> Answer:
            return await self._update(request.rest, status, request.text("note"))

        return told

    async def update(self, request: Request) -> Answer:
        body = request.json(UpdateBody)
        if body.status not in WORSE:
            raise bad_request(f"Invalid check status: '{body.status}'")
        return await self._update(request.rest, body.status, body.output)

    async def _update(self, check: str, status: str, output: str) -> Answer:
        try:
            await self._heard(check, status, output)
        except NotRegistered as error:
            refused(error)
        return DONE

    async def maintenance(self, request: Request) -> Answer:
        await self._catalog.maintain_node(enabled(request), request.text("reason"))
        return DONE
