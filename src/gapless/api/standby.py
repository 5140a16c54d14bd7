"""The HTTP API of a control plane that stands by: what can be read; all else is the leader's."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.rest import refuse
from gapless.api.rest_changes import wanted_of
from gapless.control.changelog import change_status, chosen
from gapless.control.rollouts import shown
from gapless.control.standby import Standby
from gapless.control.status import rollout_status
from gapless.core.errors import GaplessError, UnknownName


def standby_app(standby: Standby) -> Starlette:
    """The ASGI app, with the answers of `rest_app`."""

    async def status(_: Request) -> Response:
        return JSONResponse(await standby.status())

    async def changes(request: Request) -> Response:

        records = await standby.records()
        found = chosen(records.all_changes(), wanted_of(request))
        return JSONResponse([change_status(records, change) for change in found])

    async def rollout(request: Request) -> Response:
        name = request.path_params["service"]
        newest = (await standby.records()).rollout(name)
        if newest is None:
            raise UnknownName(f"{name} has had no rollout yet")
        return JSONResponse(rollout_status(newest))

    async def rollouts(request: Request) -> Response:
        found = shown(await standby.records(), request.query_params.get("name", ""))
        return JSONResponse([rollout_status(rollout) for rollout in found])

    async def other(_: Request) -> Response:
        raise await standby.refuse()

    routes = [
        Route("/v1/status", status),
        Route("/v1/changes", changes),
        Route("/v1/services/{service}/rollout", rollout),
        Route("/v1/rollouts", rollouts),
        Route("/{path:path}", other, methods=["GET", "POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={GaplessError: refuse})
