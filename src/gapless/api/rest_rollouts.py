"""Rollouts in the control plane's own HTTP API: begin, look, steer, go back. NAME is a service or a train."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.api.lines import Lines
from gapless.control.plane import ControlPlane
from gapless.control.rollouts import Order, Terms, shown
from gapless.control.status import outline_status, rollout_view, split_status
from gapless.core.errors import GaplessError, UnknownName
from gapless.core.model import Rollout


def rollout_routes(plane: ControlPlane) -> list[Route]:
    api = _Rollouts(plane)
    return [
        Route("/v1/deploy", api.deploy_all, methods=["POST"]),
        Route("/v1/rollouts", api.rollouts),
        Route("/v1/services/{service}/deploy", api.deploy, methods=["POST"]),
        Route("/v1/services/{service}/rollback", api.rollback, methods=["POST"]),
        Route("/v1/services/{service}/split", api.split),
        Route("/v1/services/{service}/split", api.divide, methods=["POST"]),
        Route("/v1/services/{service}/rollout", api.rollout),
        Route("/v1/services/{service}/rollouts/{number:int}", api.follow),
        Route("/v1/services/{service}/rollout/{verb}", api.steer, methods=["POST"]),
    ]


class _Rollouts:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def deploy(self, request: Request) -> Response:
        """`{source, version, env}` and the terms of `deploy_all`."""
        body = await json_of(request)
        order = _order({**body, "service": request.path_params["service"]})
        begun = await self._plane.rollouts.deploy_all([order], author_of(body), _terms(body))
        return JSONResponse(self._view(begun[0]))

    async def deploy_all(self, request: Request) -> Response:
        """`{orders: [{service, source, version, env}], train, scheduled, begin_at, override, dry_run}`."""
        body = await json_of(request)
        orders, terms = [_order(order) for order in body.get("orders", ())], _terms(body)
        if not orders:
            raise GaplessError("nothing is to be deployed", "Name a service.")
        if body.get("dry_run"):
            return JSONResponse(outline_status(await self._plane.dry_run.outline(orders, terms)))
        begun = await self._plane.rollouts.deploy_all(orders, author_of(body), terms)
        return JSONResponse({"rollouts": [self._view(rollout) for rollout in begun]})

    async def rollouts(self, request: Request) -> Response:
        """The newest of each service, or those of `?name=`."""
        name = request.query_params.get("name", "")
        return JSONResponse([self._view(rollout) for rollout in shown(self._plane.records, name)])

    async def rollback(self, request: Request) -> Response:
        author = author_of(await json_of(request))
        return JSONResponse(self._view(await self._plane.rollouts.rollback(request.path_params["service"], author)))

    async def split(self, request: Request) -> Response:
        return JSONResponse(split_status(self._plane.splits.shown(request.path_params["service"])))

    async def divide(self, request: Request) -> Response:
        """`{shares: [[release, percent], …]}`."""
        body = await json_of(request)
        shares = [(str(release), float(percent)) for release, percent in body.get("shares", ())]
        divided = await self._plane.splits.divide(request.path_params["service"], shares, author_of(body))
        return JSONResponse(split_status(divided))

    async def steer(self, request: Request) -> Response:
        """`{override}`: why no window or freeze is to hold it back."""
        body, path = await json_of(request), request.path_params
        steered = await self._plane.rollouts.steer(
            path["service"], path["verb"], author_of(body), str(body.get("override", ""))
        )
        return JSONResponse(self._view(steered))

    async def rollout(self, request: Request) -> Response:
        name = request.path_params["service"]
        newest = self._plane.records.rollout(name)
        if newest is None:
            raise UnknownName(f"{name} has had no rollout yet", f"Begin one: `gapless deploy {name} --release …`.")
        return JSONResponse(self._view(newest))

    async def follow(self, request: Request) -> Response:
        path = request.path_params
        return Lines(self._lines(self._plane.follow(path["service"], path["number"])))

    async def _lines(self, rollouts: AsyncIterator[Rollout]) -> AsyncIterator[bytes]:
        async for rollout in rollouts:
            yield json.dumps(self._view(rollout)).encode() + b"\n"

    def _view(self, rollout: Rollout) -> dict[str, Any]:
        return rollout_view(self._plane.records, rollout)


def _order(body: dict[str, Any]) -> Order:
    return Order(
        service=str(body.get("service", "")),
        version=str(body.get("version", "")),
        source=Path(body["source"]) if body.get("source") else None,
        env=body.get("env", {}),
    )


def _terms(body: dict[str, Any]) -> Terms:
    return Terms(
        train=str(body.get("train", "")),
        scheduled=bool(body.get("scheduled")),
        begin_at=float(body.get("begin_at", 0.0)),
        override=str(body.get("override", "")),
    )
