"""Whether a release has room, in the control plane's own HTTP API."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.control.plane import ControlPlane


def preflight_routes(plane: ControlPlane) -> list[Route]:
    async def show(request: Request) -> Response:
        """`?release=`: with what that one showed when it ran; `?file=1`: by gapless.yaml as it is now."""
        release, by_file = request.query_params.get("release", ""), "file" in request.query_params
        report = await plane.preflight.report(request.path_params["service"], release, by_file=by_file)
        return JSONResponse({**msgspec.to_builtins(report), "risk": str(report.risk)})

    return [Route("/v1/services/{service}/preflight", show)]
