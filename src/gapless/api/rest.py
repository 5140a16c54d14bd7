"""The control plane's own HTTP API, on its Unix socket: one route for each verb.

Errors are JSON `{"error", "remedy", "code", "kind"}`; streams are newline-delimited JSON. The socket's mode (0600) is
the access control: whoever may open it may steer the system.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.api.lines import Lines
from gapless.api.rest_alerts import alert_routes
from gapless.api.rest_apply import apply_routes
from gapless.api.rest_changes import change_routes
from gapless.api.rest_config import config_routes
from gapless.api.rest_gateway import gateway_routes
from gapless.api.rest_incidents import incident_routes
from gapless.api.rest_looks import look_routes
from gapless.api.rest_metrics import metrics_routes
from gapless.api.rest_notify import notify_routes
from gapless.api.rest_preflight import preflight_routes
from gapless.api.rest_rollouts import rollout_routes
from gapless.api.rest_routes import route_routes
from gapless.api.rest_traces import trace_routes
from gapless.control.plane import ControlPlane
from gapless.core.errors import Busy, Conflict, GaplessError, NotLeader, UnknownName

STATUS_OF: dict[type[GaplessError], int] = {UnknownName: 404, Busy: 409, Conflict: 409, NotLeader: 409}
"""All other errors are 422: the request was understood and cannot be done."""


def rest_app(plane: ControlPlane, stop: Callable[[], None]) -> Starlette:
    """The ASGI app. `stop` begins the end of the control plane and all that it runs."""
    api = _Rest(plane, stop)
    routes = [
        Route("/v1/status", api.status),
        Route("/v1/discovery", api.discovery),
        Route("/v1/services/{service}/scale", api.scale, methods=["POST"]),
        Route("/v1/services/{service}/reload", api.reload, methods=["POST"]),
        Route("/v1/down", api.down, methods=["POST"]),
        *change_routes(plane),
        *look_routes(plane),
        *alert_routes(plane),
        *incident_routes(plane),
        *config_routes(plane),
        *metrics_routes(plane),
        *route_routes(plane),
        *trace_routes(plane),
        *apply_routes(plane),
        *notify_routes(plane),
        *rollout_routes(plane),
        *preflight_routes(plane),
        *gateway_routes(plane),
    ]
    return Starlette(routes=routes, exception_handlers={GaplessError: refuse})


async def refuse(_: Request, error: Exception) -> Response:
    """An error as JSON."""
    assert isinstance(error, GaplessError)
    status = next((code for kind, code in STATUS_OF.items() if isinstance(error, kind)), 422)
    body = {"error": error.what, "remedy": error.remedy, "code": error.exit_code, "kind": type(error).__name__}
    return JSONResponse(body, status_code=status)


class _Rest:
    def __init__(self, plane: ControlPlane, stop: Callable[[], None]) -> None:
        self._plane = plane
        self._stop = stop

    async def status(self, _: Request) -> Response:
        return JSONResponse(self._plane.status())

    async def discovery(self, _: Request) -> Response:
        return Lines(self._plane.feed.follow())

    async def scale(self, request: Request) -> Response:
        body = await json_of(request)
        service = await self._plane.commands.scale(
            request.path_params["service"], int(body["instances"]), author_of(body)
        )
        return JSONResponse({"service": service.name, "instances": service.instances})

    async def reload(self, request: Request) -> Response:
        author = author_of(await json_of(request))
        return JSONResponse({"reloaded": await self._plane.commands.reload(request.path_params["service"], author)})

    async def down(self, _: Request) -> Response:
        self._stop()
        return JSONResponse({"stopping": True})
