"""The routes of `gapless alerts` and `gapless alert`."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.config.quantities import seconds
from gapless.control.plane import ControlPlane
from gapless.core.errors import ConfigError
from gapless.core.model.alert import Action, Severity, Silence


def alert_routes(plane: ControlPlane) -> list[Route]:
    api = _Alerts(plane)
    return [
        Route("/v1/alerts", api.now),
        Route("/v1/alerts/history", api.history),
        Route("/v1/alerts/rules", api.rules),
        Route("/v1/alerts/test", api.test, methods=["POST"]),
        Route("/v1/alerts/{number:int}/ack", api.ack, methods=["POST"]),
        Route("/v1/silences", api.silences),
        Route("/v1/silences", api.silence, methods=["POST"]),
        Route("/v1/silences/{number:int}", api.unsilence, methods=["DELETE"]),
        Route("/v1/actions", api.actions),
        Route("/v1/actions/{number:int}/undo", api.undo, methods=["POST"]),
    ]


class _Alerts:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def now(self, _: Request) -> Response:
        return JSONResponse(self._plane.watching.alerter.now())

    async def history(self, request: Request) -> Response:
        return JSONResponse(self._plane.watching.alerter.history(_limit(request)))

    async def rules(self, _: Request) -> Response:
        """Each rule for each service, as it is evaluated."""
        watches = self._plane.watching.alerter.watches()
        return JSONResponse(
            [msgspec.to_builtins(w.rule) | {"service": w.service, "of_watch": dict(w.labels)} for w in watches]
        )

    async def actions(self, request: Request) -> Response:
        found = self._plane.records.all_of(Action)[::-1][: _limit(request)]
        return JSONResponse([msgspec.to_builtins(action) for action in found])

    async def silences(self, _: Request) -> Response:
        return JSONResponse([msgspec.to_builtins(each) for each in self._plane.records.all_of(Silence)])

    async def ack(self, request: Request) -> Response:
        author = author_of(await json_of(request))
        return _json(await self._plane.watching.alerts.ack(int(request.path_params["number"]), author))

    async def silence(self, request: Request) -> Response:
        """`{"rule": "cpu", "service": "orders", "labels": {}, "for": "2h", "why": "…"}`."""
        body = await json_of(request)
        made = await self._plane.watching.alerts.silence(
            str(body.get("rule") or ""),
            str(body.get("service") or ""),
            _labels(body),
            _seconds(body.get("for")),
            author_of(body),
        )
        return _json(made)

    async def unsilence(self, request: Request) -> Response:
        author = author_of(await json_of(request))
        return _json(await self._plane.watching.alerts.unsilence(int(request.path_params["number"]), author))

    async def test(self, request: Request) -> Response:
        """`{"service": "orders", "severity": "P1", "labels": {}}`."""
        body = await json_of(request)
        service = str(body.get("service") or "")
        if service:
            self._plane.commands.known(service)
        severity = str(body.get("severity") or Severity.P3)
        if severity not in list(Severity):
            raise ConfigError(f"{severity!r} is no severity", f"There are: {', '.join(Severity)}.")
        return _json(
            await self._plane.watching.alerts.test(service, Severity(severity), _labels(body), author_of(body))
        )

    async def undo(self, request: Request) -> Response:
        author = author_of(await json_of(request))
        return _json(await self._plane.watching.actor.undo_number(int(request.path_params["number"]), author))


def _json(value: Any) -> Response:
    return JSONResponse(msgspec.to_builtins(value))


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "50")
    if not text.isdecimal():
        raise ConfigError(f"limit {text!r} is no number", "Write for instance ?limit=50.")
    return int(text)


def _labels(body: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in dict(body.get("labels") or {}).items()}


def _seconds(value: Any) -> float:
    try:
        return seconds(value)
    except ValueError as error:
        raise ConfigError(f"--for {value}: {error}", "Write for instance --for 2h.") from error
