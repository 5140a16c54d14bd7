"""Starlette: gapless serve with_starlette:app"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gapless import Service

VERSION = "1"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    yield {"opened": "by Starlette"}
    print("closed by Starlette", flush=True)


async def version(request: Request) -> JSONResponse:
    return JSONResponse({"version": VERSION, "opened": request.state.opened})


async def slow(request: Request) -> JSONResponse:
    await asyncio.sleep(float(request.query_params.get("seconds", "1")))
    return JSONResponse({"version": VERSION})


app = Starlette(routes=[Route("/", version), Route("/slow", slow)], lifespan=lifespan)
service = Service("starlette", app)


@service.resource
async def database() -> AsyncIterator[str]:
    yield "connected"
    print("closed by the service", flush=True)
