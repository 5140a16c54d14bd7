"""The admin socket: a few answers in plain HTTP/1.1 on a Unix socket that only its owner can open.

GET  /livez /readyz /startupz /healthz   the workers together, in the kit's JSON
GET  /status                             processes and generations
GET  /metrics                            Prometheus text
POST /reload                             answers when the new generation serves: 200, or 409 busy, 422 refused
POST /drain                              202
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from gapless.core.errors import Busy
from gapless.server.bind import Listener
from gapless.server.generation import Phase
from gapless.server.master import Master, Refusal

_log = logging.getLogger("gapless.server")

ASK_LIMIT_S = 1.0
"""A worker whose loop is busy for longer is shown with what was last known of it."""
HEAD_BYTES = 16_384
HEAD_LIMIT_S = 5.0
REASONS = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
    422: "Unprocessable Content", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class Answer(NamedTuple):
    status: int
    body: bytes
    kind: str = "application/json"
    allow: str = ""


def as_json(status: int, value: Any) -> Answer:
    return Answer(status, json.dumps(value).encode() + b"\n")


class Admin:
    """Serves one master's socket. `close` ends it; whoever still waits for an answer gets it first."""

    def __init__(self, master: Master, listener: Listener) -> None:
        self._master = master
        self._listener = listener
        self._talks: set[asyncio.Task[None]] = set()
        self._routes: dict[str, tuple[str, Callable[[], Awaitable[Answer]]]] = {
            "/livez": ("GET", lambda: self._probe(lambda health: True)),
            "/readyz": ("GET", lambda: self._probe(lambda health: bool(health["status"] == "ready"))),
            "/startupz": ("GET", lambda: self._probe(lambda health: self._master.state.current > 0)),
            "/healthz": ("GET", lambda: self._probe(self._healthy)),
            "/status": ("GET", self._status),
            "/metrics": ("GET", self._metrics),
            "/reload": ("POST", self._reload),
            "/drain": ("POST", self._drain),
        }

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._connected, sock=self._listener.sock, limit=HEAD_BYTES)

    async def close(self) -> None:
        self._listener.remove()
        self._server.close()
        if self._talks:
            await asyncio.wait(self._talks, timeout=ASK_LIMIT_S)
        for talk in self._talks:
            talk.cancel()
        if self._talks:
            await asyncio.wait(self._talks)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.ensure_future(self._talk(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer."""
        try:
            async with asyncio.timeout(HEAD_LIMIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(response(*await self._answer(head)))
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError) as error:
            _log.debug("a client of the admin socket went away: %r", error)
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> tuple[Answer, bool]:
        method, _, rest = head.decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if not path.startswith("/"):
            return as_json(400, {"error": "not an HTTP request"}), False
        try:
            return await self._route(method, path), method == "HEAD"
        except Exception as error:  # noqa: BLE001 - logged, told to the client; the socket must go on answering
            _log.exception("the admin socket could not answer %s %s", method, path)
            return as_json(500, {"error": repr(error)}), False

    async def _route(self, method: str, path: str) -> Answer:
        if path not in self._routes:
            return as_json(404, {"error": f"there is no {path}", "paths": sorted(self._routes)})
        allowed, handle = self._routes[path]
        if method != allowed and (method, allowed) != ("HEAD", "GET"):
            return as_json(405, {"error": f"{path} takes {allowed}"})._replace(allow=allowed)
        return await handle()

    async def health(self) -> dict[str, Any]:
        """The instance's health in the kit's shape: of the workers that accept; while the server drains, of all."""
        from gapless.service.admin import aggregate

        leaving = self._master.state.leaving
        children = list(self._master.children.values()) if leaving else self._master.serving
        await asyncio.gather(*(child.ask("health", ASK_LIMIT_S) for child in children))
        health = aggregate([child.health for child in children if child.health])
        if leaving:
            health["status"] = "draining"
        elif not children:
            health["status"] = "starting"
        return health

    async def _probe(self, passes: Callable[[dict[str, Any]], bool]) -> Answer:
        health = await self.health()
        return as_json(200 if passes(health) else 503, health)

    def _healthy(self, health: dict[str, Any]) -> bool:
        passing = all(check["status"] == "pass" for check in health["checks"].values())
        return self._master.state.current > 0 and passing and health["status"] not in ("starting", "stopped")

    async def _status(self) -> Answer:
        state, children = self._master.state, self._master.children
        workers = [
            {
                "pid": children[worker.key].pid,
                "generation": worker.generation,
                "phase": worker.phase.value,
                "connections": children[worker.key].connections,
            }
            for worker in state.workers
            if worker.key in children
        ]
        return as_json(
            200,
            {
                "pid": os.getpid(),
                "app": self._master.settings.app,
                "generation": state.current,
                "coming": state.coming,
                "serving": sum(worker["phase"] == Phase.SERVING.value for worker in workers),
                "draining": state.leaving,
                "reloads": self._master.archive.reloads,
                "restarts": self._master.archive.restarts,
                "workers": workers,
            },
        )

    async def _metrics(self) -> Answer:
        from gapless.service.admin import CONTENT_TYPE, render

        children = list(self._master.children.values())
        await asyncio.gather(*(child.ask("samples", ASK_LIMIT_S) for child in children))
        # What ended while we waited is in the archive by now, with all that it had told.
        live = [child.samples for child in self._master.children.values()]
        return Answer(200, render(self._master.archive.total(live)), CONTENT_TYPE)

    async def _reload(self) -> Answer:
        try:
            done = await self._master.reload()
        except Busy as error:
            return as_json(409, {"error": error.what, "remedy": error.remedy})
        except Refusal as error:
            said = {"error": f"refused: {error.reason}", "remedy": error.remedy}
            return as_json(422, {**said, "generation": error.generation, "log": error.log})
        stages = [
            {"name": "prepared", "took_s": round(done.prepared_s, 4)},
            {"name": "serving", "took_s": round(done.serving_s, 4)},
        ]
        return as_json(
            200, {"generation": done.generation, "before": done.before, "stages": stages, "workers": done.pids}
        )

    async def _drain(self) -> Answer:
        self._master.stop(signal.SIGTERM)
        return as_json(202, {"draining": True, "limit_s": self._master.settings.drain_s})


def response(answer: Answer, head_only: bool) -> bytes:
    """The bytes of an HTTP/1.1 response that ends its connection."""
    lines = [
        f"HTTP/1.1 {answer.status} {REASONS[answer.status]}",
        f"content-type: {answer.kind}",
        f"content-length: {len(answer.body)}",
        "cache-control: no-store",
        "connection: close",
        *([f"allow: {answer.allow}"] if answer.allow else []),
    ]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if head_only else head + answer.body
