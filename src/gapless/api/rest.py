"""The control plane's own HTTP API, on its Unix socket: one route for each verb.

Errors are JSON `{"error", "remedy", "code", "kind"}`; streams are newline-delimited JSON. The socket's mode (0600) is
the access control: whoever may open it may steer the system.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gapless.control.commands import Author
from gapless.control.plane import ControlPlane
from gapless.control.status import rollout_status
from gapless.core.errors import Busy, Conflict, GaplessError, UnknownName
from gapless.core.model import Rollout

STATUS_OF: dict[type[GaplessError], int] = {UnknownName: 404, Busy: 409, Conflict: 409}
"""All other errors are 422: the request was understood and cannot be done."""


def rest_app(plane: ControlPlane, stop: Callable[[], None]) -> Starlette:
    """The ASGI app. `stop` begins the end of the control plane and all that it runs."""
    api = _Rest(plane, stop)
    routes = [
        Route("/v1/status", api.status),
        Route("/v1/discovery", api.discovery),
        Route("/v1/changes", api.changes),
        Route("/v1/services/{service}/deploy", api.deploy, methods=["POST"]),
        Route("/v1/services/{service}/rollback", api.rollback, methods=["POST"]),
        Route("/v1/services/{service}/scale", api.scale, methods=["POST"]),
        Route("/v1/services/{service}/reload", api.reload, methods=["POST"]),
        Route("/v1/services/{service}/rollout", api.rollout),
        Route("/v1/services/{service}/rollouts/{number:int}", api.follow),
        Route("/v1/services/{service}/rollout/{verb}", api.steer, methods=["POST"]),
        Route("/v1/down", api.down, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={GaplessError: _refuse})


async def _refuse(_: Request, error: Exception) -> Response:
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
        return StreamingResponse(self._plane.feed.follow(), media_type="application/x-ndjson")

    async def changes(self, request: Request) -> Response:
        import msgspec

        limit = int(request.query_params.get("limit", "50"))
        return JSONResponse([msgspec.to_builtins(change) for change in self._plane.records.changes(limit)])

    async def deploy(self, request: Request) -> Response:
        body = await _json(request)
        source = Path(body["source"]) if body.get("source") else None
        return await self._begun(
            self._plane.commands.deploy(
                request.path_params["service"], source, body.get("version", ""), body.get("env", {}), _author(body)
            )
        )

    async def rollback(self, request: Request) -> Response:
        author = _author(await _json(request))
        return await self._begun(self._plane.commands.rollback(request.path_params["service"], author))

    async def steer(self, request: Request) -> Response:
        author = _author(await _json(request))
        path = request.path_params
        return await self._begun(self._plane.commands.steer(path["service"], path["verb"], author))

    async def _begun(self, act: Awaitable[Rollout]) -> Response:
        return JSONResponse(rollout_status(await act))

    async def scale(self, request: Request) -> Response:
        body = await _json(request)
        service = await self._plane.commands.scale(
            request.path_params["service"], int(body["instances"]), _author(body)
        )
        return JSONResponse({"service": service.name, "instances": service.instances})

    async def reload(self, request: Request) -> Response:
        author = _author(await _json(request))
        return JSONResponse({"reloaded": await self._plane.commands.reload(request.path_params["service"], author)})

    async def rollout(self, request: Request) -> Response:
        name = request.path_params["service"]
        newest = self._plane.records.rollout(name)
        if newest is None:
            raise UnknownName(f"{name} has had no rollout yet", f"Begin one: `gapless deploy {name} --release …`.")
        return JSONResponse(rollout_status(newest))

    async def follow(self, request: Request) -> Response:
        path = request.path_params
        rollouts = self._plane.follow(path["service"], path["number"])
        return StreamingResponse(_lines(rollouts), media_type="application/x-ndjson")

    async def down(self, _: Request) -> Response:
        self._stop()
        return JSONResponse({"stopping": True})


async def _lines(rollouts: AsyncIterator[Rollout]) -> AsyncIterator[bytes]:
    async for rollout in rollouts:
        yield json.dumps(rollout_status(rollout)).encode() + b"\n"


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise GaplessError(f"the body is not JSON: {error}", "Send a JSON object.") from error
    if not isinstance(body, dict):
        raise GaplessError("the body is not a JSON object", "Send a JSON object.")
    return body


def _author(body: dict[str, Any]) -> Author:
    return Author(who=body.get("who") or "unknown", why=body.get("why", ""), ticket=body.get("ticket", ""))
