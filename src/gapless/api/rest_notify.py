"""The routes of `gapless notify`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.control.plane import ControlPlane


def notify_routes(plane: ControlPlane) -> list[Route]:
    async def status(_: Request) -> Response:
        return JSONResponse(plane.watching.notifier.status())

    async def test(request: Request) -> Response:
        name = str(request.path_params["channel"])
        attempt = await plane.watching.notifier.test(name, author_of(await json_of(request)).who)
        return JSONResponse({"channel": name, "ok": attempt.ok, "error": attempt.error})

    return [
        Route("/v1/notify", status),
        Route("/v1/notify/{channel}/test", test, methods=["POST"]),
    ]
