"""The routes of `gapless incidents` and `gapless incident`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gapless.control.plane import ControlPlane


def incident_routes(plane: ControlPlane) -> list[Route]:
    async def all_of_them(_: Request) -> Response:
        return JSONResponse(plane.watching.incidents.all())

    async def one(request: Request) -> Response:
        return JSONResponse(plane.watching.incidents.one(int(request.path_params["number"])))

    async def export(request: Request) -> Response:
        """As `{"markdown": …}`, or as text for whoever asks for it."""
        text = plane.watching.incidents.export(int(request.path_params["number"]))
        if "text/markdown" in request.headers.get("accept", ""):
            return PlainTextResponse(text, media_type="text/markdown")
        return JSONResponse({"markdown": text})

    return [
        Route("/v1/incidents", all_of_them),
        Route("/v1/incidents/{number:int}", one),
        Route("/v1/incidents/{number:int}/export", export),
    ]
