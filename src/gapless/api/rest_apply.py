"""The route of `gapless apply`."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.control.changelog import change_status
from gapless.control.plane import ControlPlane


def apply_routes(plane: ControlPlane) -> list[Route]:
    async def apply(request: Request) -> Response:
        """`{"file": "/srv/shop/gapless.yaml", "dry_run": false}`: the file that the control plane was started with."""
        body = await json_of(request)
        file = Path(body.get("file") or plane.system.path)
        dry_run = bool(body.get("dry_run"))
        changes = await plane.apply(file, author_of(body), dry_run=dry_run)
        numbers = {change.number for change in changes}
        written = [change for change in plane.records.changes() if change.number in numbers] if not dry_run else changes
        told = [change_status(plane.records, change) for change in sorted(written, key=lambda each: each.number)]
        return JSONResponse({"applied": not dry_run, "changes": told})

    return [Route("/v1/apply", apply, methods=["POST"])]
