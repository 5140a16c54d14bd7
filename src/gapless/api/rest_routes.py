"""The routes of `gapless route`: which there are, and what answers a request."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import json_of
from gapless.control.plane import ControlPlane
from gapless.core import codec
from gapless.core.errors import ConfigError, StoreBroken
from gapless.gateway import match
from gapless.gateway.explain import explain, listed


def route_routes(plane: ControlPlane) -> list[Route]:
    api = _Routes(plane)
    return [Route("/v1/routes", api.listed), Route("/v1/routes/explain", api.explain, methods=["POST"])]


class _Routes:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def listed(self, _: Request) -> Response:
        return JSONResponse({**self._standing(), "routes": listed(self._plane.table)})

    async def explain(self, request: Request) -> Response:
        """`{"path": "/orders?x=1", "host": "shop.example", "method": "GET", "headers": {"x-user-id": "42"}, "address":
        "10.0.0.7"}`; what is left out is as in `gateway.match.Request`."""
        body = await json_of(request)
        asked = {name: body[name] for name in ("path", "host", "method", "headers", "address") if name in body}
        try:
            wanted = codec.decode(codec.encode(asked), match.Request)
        except StoreBroken as error:
            raise ConfigError(f"this is no request: {error.what}", 'Send for instance {"path": "/orders"}.') from error
        return JSONResponse({**self._standing(), **explain(self._plane.table, wanted)})

    def _standing(self) -> dict[str, Any]:
        return {"version": self._plane.table.version, "refusal": self._plane.refusal}
