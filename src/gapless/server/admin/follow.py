"""`POST /reload?follow`: the stages of a reload as they happen, one JSON line each; the last line is the outcome."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gapless.core.errors import Busy
from gapless.server.master.master import Master
from gapless.server.master.outcome import Refusal, Reloaded

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"


def outcome(done: Reloaded) -> dict[str, Any]:
    stages = [{"name": name, "took_s": round(took_s, 4)} for name, took_s in done.stages.items()]
    return {"generation": done.generation, "before": done.before, "stages": stages, "workers": done.pids}


def refusal(error: Refusal) -> dict[str, Any]:
    said = {"error": f"refused: {error.reason}", "remedy": error.remedy}
    return {**said, "generation": error.generation, "log": error.log}


async def follow(master: Master, writer: asyncio.StreamWriter) -> None:
    """Raises Busy, before anything was written. Whoever goes away meanwhile changes nothing for the reload."""

    generation = master.state.last + 1

    def told(name: str, took_s: float) -> None:
        if name == "starting":
            writer.write(HEAD)
        writer.write(line({"stage": name, "took_s": round(took_s, 4), "generation": generation}))

    try:
        done = await master.reload(told)
        writer.write(line({"status": 200, **outcome(done)}))
    except Refusal as error:
        writer.write(line({"status": 422, **refusal(error)}))


def line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def busy(error: Busy) -> dict[str, Any]:
    return {"error": error.what, "remedy": error.remedy}
