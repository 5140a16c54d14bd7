"""The routes of traces."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.control.plane import ControlPlane
from gapless.core.errors import ConfigError, UnknownName
from gapless.observe.trace.store import FAILED, SLOW

MOST = 1_000


def trace_routes(plane: ControlPlane) -> list[Route]:
    async def listed(request: Request) -> Response:
        """`?service=orders&only=slow&limit=50`: the newest first."""
        query = request.query_params
        if (only := query.get("only", "")) not in ("", SLOW, FAILED):
            raise ConfigError(f"only={only}: there are no such traces", "Write only=slow or only=failed.")
        if not (limit := query.get("limit", "50")).isdecimal() or not 0 < int(limit) <= MOST:
            raise ConfigError(f"limit={limit}: not a number of traces", f"Write a number from 1 to {MOST}.")
        found = plane.watching.traces.store.find(service=query.get("service", ""), only=only, limit=int(limit))
        return JSONResponse([summary.plain() for summary in found])

    async def one(request: Request) -> Response:
        """Its spans, by the time of their beginning."""
        wanted = request.path_params["trace"]
        spans = plane.watching.traces.store.get(wanted)
        if not spans:
            raise UnknownName(f"no trace {wanted} is kept", "`gapless traces` lists those that are.")
        return JSONResponse([span.plain() for span in spans])

    return [Route("/v1/traces", listed), Route("/v1/traces/{trace}", one)]
