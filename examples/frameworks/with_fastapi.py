"""FastAPI: gapless serve with_fastapi:app"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from gapless import Service

VERSION = "1"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"opened": "by FastAPI"}
    print("closed by FastAPI", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def version(request: Request) -> dict[str, str]:
    return {"version": VERSION, "opened": request.state.opened}


@app.get("/slow")
async def slow(seconds: float = 1.0) -> dict[str, str]:
    await asyncio.sleep(seconds)
    return {"version": VERSION}


service = Service("fastapi", app)


@service.resource
async def database() -> AsyncIterator[str]:
    yield "connected"
    print("closed by the service", flush=True)
