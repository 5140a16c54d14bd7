"""Litestar: gapless serve with_litestar:app"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, get
from litestar.datastructures import State

from gapless import Service

VERSION = "1"


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.opened = "by Litestar"
    yield
    print("closed by Litestar", flush=True)


@get("/")
async def version(state: State) -> dict[str, str]:
    return {"version": VERSION, "opened": state.opened}


@get("/slow")
async def slow(seconds: float = 1.0) -> dict[str, str]:
    await asyncio.sleep(seconds)
    return {"version": VERSION}


app = Litestar([version, slow], lifespan=[lifespan])
service = Service("litestar", app)


@service.resource
async def database() -> AsyncIterator[str]:
    yield "connected"
    print("closed by the service", flush=True)
