"""The routes of `gapless gateway` and `gapless fault`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.api.body import author_of, json_of
from gapless.config.quantities import fraction, seconds
from gapless.control.plane import ControlPlane
from gapless.core.errors import ConfigError
from gapless.core.model import Fault

FAULT = "/v1/services/{service}/fault"


def gateway_routes(plane: ControlPlane) -> list[Route]:
    api = _Gateway(plane)
    return [
        Route("/v1/gateway", api.details),
        Route("/v1/gateway/restart", api.restart, methods=["POST"]),
        Route("/v1/faults", api.faults),
        Route(FAULT, api.inject, methods=["POST"]),
        Route(f"{FAULT}/clear", api.clear, methods=["POST"]),
    ]


class _Gateway:
    def __init__(self, plane: ControlPlane) -> None:
        self._gate = plane.gate
        self._time = plane.time

    async def details(self, _: Request) -> Response:
        return JSONResponse(await self._gate.details())

    async def restart(self, request: Request) -> Response:
        """`{"envoy": "/opt/envoy"}`; left out: the one that is configured."""
        body = await json_of(request)
        binary = Path(str(body["envoy"])) if body.get("envoy") else None
        return JSONResponse(await self._gate.restart(binary, author_of(body)))

    async def faults(self, _: Request) -> Response:
        return JSONResponse([self._shown(fault) for fault in self._gate.faults()])

    async def inject(self, request: Request) -> Response:
        """`{"delay": "200ms", "abort": 503, "share": "10%", "header": "x-chaos=1", "for": "5m"}`."""
        body = await json_of(request)
        fault = _fault(str(request.path_params["service"]), body, self._time())
        return JSONResponse(self._shown(await self._gate.inject(fault, author_of(body))))

    async def clear(self, request: Request) -> Response:
        service = str(request.path_params["service"])
        await self._gate.clear(service, author_of(await json_of(request)))
        return JSONResponse({"service": service, "cleared": True})

    def _shown(self, fault: Fault) -> dict[str, Any]:
        return {**msgspec.to_builtins(fault), "left_s": round(fault.until_at - self._time(), 1)}


def _fault(service: str, body: dict[str, Any], now_at: float) -> Fault:
    try:
        return Fault(
            service=service,
            until_at=now_at + seconds(body.get("for") or "5m"),
            delay_s=seconds(body["delay"]) if body.get("delay") else 0.0,
            abort=int(body.get("abort") or 0),
            share=fraction(body.get("share") or "100%") * 100,
            header=str(body.get("header") or ""),
        )
    except ValueError as error:
        raise ConfigError(f"no fault: {error}", "Write for instance --delay 200ms --share 10% --for 5m.") from error
