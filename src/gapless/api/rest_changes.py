"""The change log: read, followed, and taken back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.api.lines import Lines
from gapless.control.changelog import Wanted, change_status, chosen
from gapless.control.plane import ControlPlane
from gapless.control.status import rollout_status
from gapless.core.errors import GaplessError, UnknownName

LIMIT = 50


def change_routes(plane: ControlPlane) -> list[Route]:
    api = _Changes(plane)
    return [
        Route("/v1/changes", api.list),
        Route("/v1/changes/follow", api.follow),
        Route("/v1/changes/{number:int}", api.show),
        Route("/v1/changes/{number:int}/undo", api.undo, methods=["POST"]),
    ]


class _Changes:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def list(self, request: Request) -> Response:
        """Newest first. `service`, `who`, `what` (a part of it), `since` (seconds since the epoch), `limit`."""
        changes = chosen(self._plane.records.all_changes(), wanted_of(request))
        return JSONResponse([change_status(self._plane.records, change) for change in changes])

    async def show(self, request: Request) -> Response:
        number = request.path_params["number"]
        change = self._plane.records.change(number)
        if change is None:
            raise UnknownName(f"there is no change {number}", "See `gapless changes` for those that are kept.")
        return JSONResponse(change_status(self._plane.records, change))

    async def follow(self, request: Request) -> Response:
        """As `list`, oldest first, and then each change as it comes, a document a line, without end."""
        return Lines(self._lines(wanted_of(request)))

    async def _lines(self, wanted: Wanted) -> AsyncIterator[bytes]:
        last = 0
        async for changes in self._plane.changes():
            fresh = [change for change in chosen(changes, wanted)[::-1] if change.number > last]
            for change in fresh:
                yield json.dumps(change_status(self._plane.records, change)).encode() + b"\n"
                last = change.number

    async def undo(self, request: Request) -> Response:
        author = author_of(await json_of(request))
        undone = await self._plane.undoing.undo(request.path_params["number"], author)
        rollout = rollout_status(undone.rollout) if undone.rollout else None
        change = change_status(self._plane.records, undone.change)
        return JSONResponse({"change": change, "already": undone.already, "rollout": rollout})


def wanted_of(request: Request) -> Wanted:
    """What the query asks for. Raises GaplessError."""
    query: Any = request.query_params
    try:
        return Wanted(
            service=query.get("service", ""),
            who=query.get("who", ""),
            what=query.get("what", ""),
            since_at=float(query.get("since", "0")),
            limit=int(query.get("limit", str(LIMIT))),
        )
    except ValueError as error:
        raise GaplessError(f"since and limit are numbers: {error}", "Write for instance ?limit=50.") from error
