"""The routes of `gapless config`, and the channel by which instances hear of their configuration."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.api.lines import Lines
from gapless.config.quantities import buckets
from gapless.control.configure import Wanted
from gapless.control.plane import ControlPlane
from gapless.control.status import stage_status
from gapless.core import codec
from gapless.core.configured import ConfigReply
from gapless.core.errors import ConfigError, GaplessError, UnknownName
from gapless.core.model import BUCKETS

SERVICE = "/v1/services/{service}"


def config_routes(plane: ControlPlane) -> list[Route]:
    api = _Config(plane)
    return [
        Route(f"{SERVICE}/config", api.get),
        Route(f"{SERVICE}/config", api.set, methods=["POST"]),
        Route(f"{SERVICE}/config/history", api.history),
        Route(f"{SERVICE}/config/diff", api.diff),
        Route(f"{SERVICE}/config/stage", api.stage),
        Route(f"{SERVICE}/config/rollback", api.rollback, methods=["POST"]),
        Route("/v1/config/import", api.replace, methods=["POST"]),
        Route(f"{SERVICE}/configuration", api.follow),
        Route(f"{SERVICE}/configuration/replies", api.hear, methods=["POST"]),
    ]


class _Config:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._config = plane.config

    async def get(self, request: Request) -> Response:
        return JSONResponse(await self._config.get(_service(request)))

    async def history(self, request: Request) -> Response:
        found = self._config.history(_service(request))
        return JSONResponse([msgspec.to_builtins(each) | {"standing": standing} for each, standing in found])

    async def diff(self, request: Request) -> Response:
        """`from`, `to`: numbers; left out: the revision in force, and the one before it."""
        name, query = _service(request), request.query_params
        given = _number(query["from"]) if "from" in query else None
        before, after, lines = self._config.diff(name, given, _number(query.get("to", "")))
        return JSONResponse({"service": name, "from": before, "to": after, "differences": lines})

    async def stage(self, request: Request) -> Response:
        name = _service(request)
        stage = self._plane.records.config(name).stage
        if stage is None:
            raise UnknownName(f"no change of {name}'s configuration was staged", "Begin one by --stage 10%.")
        return JSONResponse(stage_status(stage))

    async def set(self, request: Request) -> Response:
        """`{"set": {"price.max": 5}, "unset": ["debug"], "stage": "10%", "unchecked": false}`."""
        body = await json_of(request)
        given, gone = body.get("set", {}), body.get("unset", [])
        if not isinstance(given, dict) or not isinstance(gone, list) or not (given or gone):
            raise ConfigError("nothing is to be set or unset", 'Send for instance {"set": {"price.max": 5}}.')
        outcome = await self._config.set(
            _service(request),
            given,
            [str(each) for each in gone],
            author_of(body),
            weight=_weight(body),
            unchecked=bool(body.get("unchecked")),
        )
        return JSONResponse(outcome)

    async def rollback(self, request: Request) -> Response:
        body = await json_of(request)
        number = _number(str(body.get("to") or "0"))
        outcome = await self._config.rollback(
            _service(request), number, author_of(body), weight=_weight(body), unchecked=bool(body.get("unchecked"))
        )
        return JSONResponse(outcome)

    async def replace(self, request: Request) -> Response:
        """`{"label": "3f2a91c", "services": {"orders": {"values": {…}, "places": {"price.max": "orders.yaml:3"}}}}`."""
        body = await json_of(request)
        wanted = {str(name): _wanted(each) for name, each in dict(body.get("services") or {}).items()}
        if not wanted:
            raise ConfigError("there is no service to import", "Send at least one below `services`.")
        outcomes = await self._config.replace(
            wanted,
            str(body.get("label", "")),
            author_of(body),
            weight=_weight(body),
            unchecked=bool(body.get("unchecked")),
        )
        return JSONResponse(outcomes)

    async def follow(self, request: Request) -> Response:
        query = request.query_params
        return Lines(
            self._plane.publisher.follow(_service(request), query.get("instance", ""), query.get("worker", ""))
        )

    async def hear(self, request: Request) -> Response:
        reply = codec.decode(await request.body(), ConfigReply)
        self._plane.publisher.audience.hear(_service(request), reply)
        return JSONResponse({})


def _service(request: Request) -> str:
    return str(request.path_params["service"])


def _wanted(each: Any) -> Wanted:
    if not isinstance(each, dict) or not isinstance(each.get("values"), dict):
        raise ConfigError("a service's configuration is a mapping below `values`", 'Send {"values": {…}}.')
    return Wanted(values=each["values"], places=dict(each.get("places") or {}))


def _number(text: str) -> int:
    if text and not text.isdecimal():
        raise GaplessError(f"{text!r} is no revision", "Give a number of `gapless config history`.")
    return int(text or 0)


def _weight(body: dict[str, Any]) -> int:
    """The share that has it first, in buckets; 0: all at once."""
    if not (share := body.get("stage")):
        return 0
    try:
        weight = buckets(share)
    except ValueError as error:
        raise ConfigError(f"--stage {share}: {error}", "Write for instance --stage 10%.") from error
    return weight if weight < BUCKETS else 0
