"""One app for every service of the pictures: calls others, takes its time, and sometimes fails."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from typing import Any

from gapless import GaplessError, Service
from gapless.config import Settings, live

NAME = os.environ.get("GAPLESS_SERVICE", "boutique")
CALLS = [name for name in os.environ.get("CALLS", "").split(",") if name]
TOOK_S = float(os.environ.get("TOOK_MS", "5")) / 1000
FAILS = float(os.environ.get("FAILS", "0"))
_log = logging.getLogger("boutique")


class Shown(Settings):
    """What can be changed while it runs."""

    banner: str = ""
    page_size: int = 24
    discount_percent: int = 0


settings = live(Shown)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    status = 200
    try:
        for name in CALLS:
            found = await service.client(name).get("/")
            status = 503 if found.status >= 500 else status
    except GaplessError as error:
        _log.warning("a call failed: %s", error)
        status = 503
    await asyncio.sleep(random.lognormvariate(0, 0.45) * TOOK_S)
    if random.random() < FAILS:
        _log.error("the warehouse did not answer in time")
        status = 500
    elif random.random() < 0.02:
        _log.info("answered %s for %s", scope["path"], NAME)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": NAME.encode()})


service = Service(NAME, app=answer, settings=settings)
app = service
