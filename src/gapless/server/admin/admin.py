"""The admin socket: a few answers in plain HTTP/1.1 on a Unix socket that only its owner can open.

GET  /livez /readyz /startupz /healthz   the workers together, in the kit's JSON
GET  /status                             processes and generations
GET  /metrics                            Prometheus text, or OpenMetrics for who accepts that
GET  /traces?after=0                     spans that have ended since then
GET  /debug/pprof/…                      see `debug.py`
POST /reload                             answers when only the new generation accepts: 200, or 409 busy, 422 refused
POST /reload?follow                      the same in JSON lines: each stage when it has ended, at last the outcome
POST /scale?workers=N                    answers when so many serve: 200, or 409 busy, 422 one did not come to serve
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

from gapless import __version__
from gapless.core.errors import Busy, GaplessError, InvalidTransition, NotReady
from gapless.server.admin import follow
from gapless.server.admin.debug import Debugging
from gapless.server.generations.generation import Phase
from gapless.server.generations.roster import busy
from gapless.server.listen.accept import ALONE_BATCH, Acceptor
from gapless.server.listen.bind import Listener
from gapless.server.master.master import Master
from gapless.server.master.outcome import Refusal

_log = logging.getLogger("gapless.server")

FOLLOWED = b"POST /reload?follow "
METRICS = b"GET /metrics "
ADMIN = "admin"
"""The name under which the keeper holds the socket."""
ASK_LIMIT_S = 1.0
"""A worker whose loop is busy for longer is shown with what was last known of it."""
HEAD_BYTES = 16_384
HEAD_LIMIT_S = 5.0
REASONS = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
    422: "Unprocessable Content", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


DEBUG_STATUS: tuple[tuple[type[GaplessError], int], ...] = ((Busy, 409), (InvalidTransition, 400))
Ask = Callable[[str], Awaitable[tuple[bytes, str]]]


def _profiles(master: Master) -> dict[str, Ask]:
    debugging = Debugging(master)
    return {
        "profile": debugging.profile,
        "heap": debugging.heap,
        "goroutine": debugging.goroutine,
        "leaks": debugging.leaks,
    }


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
        self._routes: dict[str, tuple[str, Callable[[str], Awaitable[Answer]]]] = {
            "/livez": ("GET", lambda _: self._probe(lambda health: True)),
            "/readyz": ("GET", lambda _: self._probe(lambda health: bool(health["status"] == "ready"))),
            "/startupz": ("GET", lambda _: self._probe(lambda health: self._master.state.current > 0)),
            "/healthz": ("GET", lambda _: self._probe(self._healthy)),
            "/status": ("GET", self._status),
            "/metrics": ("GET", lambda _: self._metrics("")),
            "/traces": ("GET", self._traces),
            "/reload": ("POST", self._reload),
            "/scale": ("POST", self._scale),
            "/drain": ("POST", self._drain),
            **{f"/debug/pprof/{name}": ("GET", self._debug(ask)) for name, ask in _profiles(master).items()},
        }

    async def start(self) -> None:
        self._master.keep.hold(ADMIN, [self._listener.sock.fileno()])
        self._listener.sock.setblocking(False)
        self._acceptor = Acceptor(self._listener.sock, self._protocol, ALONE_BATCH)
        self._acceptor.start()

    def _protocol(self) -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=HEAD_BYTES), self._connected)

    async def close(self) -> None:
        """The end of the server."""
        self._master.keep.drop(ADMIN)
        self._listener.remove()
        await self.leave()

    async def leave(self) -> None:
        """Answer nobody new; the next master does. Whoever waits for an answer gets it first."""
        self._acceptor.stop(last=False)
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
            if head.startswith(FOLLOWED):
                await self._follow(writer)
            elif head.startswith(METRICS):
                writer.write(response(await self._metrics(accepted(head)), head_only=False))
            else:
                writer.write(response(*await self._answer(head)))
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError) as error:
            _log.debug("a client of the admin socket went away: %r", error)
        finally:
            writer.close()

    async def _follow(self, writer: asyncio.StreamWriter) -> None:
        try:
            await follow.follow(self._master, writer)
        except Busy as error:
            writer.write(response(as_json(409, follow.busy(error)), head_only=False))

    async def _answer(self, head: bytes) -> tuple[Answer, bool]:
        method, _, rest = head.decode("latin-1").partition(" ")
        path, _, query = rest.partition(" ")[0].partition("?")
        if not path.startswith("/"):
            return as_json(400, {"error": "not an HTTP request"}), False
        try:
            return await self._route(method, path, query), method == "HEAD"
        except Exception as error:  # noqa: BLE001 - logged, told to the client; the socket must go on answering
            _log.exception("the admin socket could not answer %s %s", method, path)
            return as_json(500, {"error": repr(error)}), False

    async def _route(self, method: str, path: str, query: str) -> Answer:
        if path not in self._routes:
            return as_json(404, {"error": f"there is no {path}", "paths": sorted(self._routes)})
        allowed, handle = self._routes[path]
        if method != allowed and (method, allowed) != ("HEAD", "GET"):
            return as_json(405, {"error": f"{path} takes {allowed}"})._replace(allow=allowed)
        return await handle(query)

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

    async def _status(self, _: str) -> Answer:
        state, children = self._master.state, self._master.children
        workers = [
            {
                "pid": children[worker.key].pid,
                "generation": worker.generation,
                "phase": worker.phase.value,
                "accepting": worker.accepting,
                "connections": children[worker.key].connections,
                "requests": children[worker.key].requests,
                "memory": children[worker.key].memory,
            }
            for worker in state.workers
            if worker.key in children
        ]
        return as_json(
            200,
            {
                "pid": self._master.keep.pid,
                "master": os.getpid(),
                "version": __version__,
                "app": self._master.settings.app,
                "generation": state.current,
                "coming": state.coming,
                "changing": busy(state),
                "serving": sum(worker["phase"] == Phase.SERVING.value for worker in workers),
                "draining": state.leaving,
                "reloads": self._master.archive.reloads,
                "restarts": self._master.archive.restarts,
                "successions": self._master.archive.masters - 1,
                "workers": workers,
            },
        )

    async def _metrics(self, accept: str) -> Answer:
        from gapless.observe.exposition import OPEN, PLAIN, wants_open
        from gapless.service.admin import render

        children = list(self._master.children.values())
        await asyncio.gather(*(child.ask("samples", ASK_LIMIT_S) for child in children))
        # What ended while we waited is in the archive by now, with all that it had told.
        total = self._master.archive.total({key: child.samples for key, child in self._master.children.items()})
        self._master.save_archive()
        asked = wants_open(accept)
        return Answer(200, render(total, open_metrics=asked), OPEN if asked else PLAIN)

    async def _traces(self, query: str) -> Answer:
        name, _, number = query.partition("=")
        if query and (name != "after" or not number.isdecimal()):
            return as_json(400, {"error": f"{query!r} is no place to go on from", "remedy": "GET /traces?after=0"})
        return as_json(200, self._master.spans.after(int(number or 0)))

    async def _reload(self, _: str) -> Answer:
        try:
            return as_json(200, follow.outcome(await self._master.reload()))
        except Busy as error:
            return as_json(409, follow.busy(error))
        except Refusal as error:
            return as_json(422, follow.refusal(error))

    async def _scale(self, query: str) -> Answer:
        name, _, number = query.partition("=")
        if name != "workers" or not number.isdecimal() or int(number) < 1:
            return as_json(400, {"error": f"{query!r} does not say how many", "remedy": "POST /scale?workers=4"})
        try:
            await self._master.scaling.to(int(number))
        except Busy as error:
            return as_json(409, follow.busy(error))
        except NotReady as error:
            return as_json(422, {"error": error.what, "remedy": error.remedy, "workers": self._master.state.wanted})
        return as_json(200, {"workers": int(number)})

    def _debug(self, ask: Ask) -> Callable[[str], Awaitable[Answer]]:
        async def answer(query: str) -> Answer:
            try:
                return Answer(200, *await ask(query))
            except GaplessError as error:
                status = next((code for kind, code in DEBUG_STATUS if isinstance(error, kind)), 503)
                return as_json(status, {"error": error.what, "remedy": error.remedy})

        return answer

    async def _drain(self, _: str) -> Answer:
        self._master.stop(signal.SIGTERM)
        return as_json(202, {"draining": True, "limit_s": self._master.settings.drain_s})


def accepted(head: bytes) -> str:
    """The header `Accept`."""
    _, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return ", ".join(value.strip() for name, _, value in fields if name.lower() == "accept")


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
