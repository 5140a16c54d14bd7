"""Consul's API without a socket: requests go straight to the ASGI app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gapless.api.consul.agent_self import Agent
from gapless.api.consul.compose import consul_api
from gapless.service.asgi import App, Message
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld


@dataclass(slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def index(self) -> int:
        return int(self.headers["x-consul-index"])


@dataclass(slots=True)
class Client:
    """`left` makes the client of the requests under way go."""

    app: App
    address: str = "127.0.0.1"
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(self, target: str, **headers: str) -> Response:
        return await self.ask("GET", target, **headers)

    async def put(self, target: str, body: Any = b"", **headers: str) -> Response:
        return await self.ask("PUT", target, body, **headers)

    async def delete(self, target: str) -> Response:
        return await self.ask("DELETE", target)

    async def ask(self, method: str, target: str, body: Any = b"", **headers: str) -> Response:
        """`body`: bytes, text, or anything else as JSON; headers as `x_consul_token="…"`."""
        path, _, query = target.partition("?")
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "client": (self.address, 1),
        }
        return await self._answered(scope, [{"type": "http.request", "body": data, "more_body": False}])

    async def _answered(self, scope: dict[str, Any], incoming: list[Message]) -> Response:
        sent: list[Message] = []

        async def receive() -> Message:
            if incoming:
                return incoming.pop(0)
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        if not sent:
            return Response(0, {}, b"")  # the client had gone
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Response(sent[0]["status"], head, b"".join(message["body"] for message in sent[1:]))


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


@dataclass(slots=True)
class Rig:
    """A whole registry over a store of its own; `restart` begins another one over the same store."""

    world: FakeWorld = field(default_factory=FakeWorld)
    agent: Agent = field(default_factory=lambda: Agent(node="n0"))
    store: MemoryStore = field(init=False)
    app: App = field(init=False)
    stack: AsyncExitStack = field(init=False)

    async def start(self) -> Client:
        self.store = MemoryStore(self.world)
        return await self._open()

    async def _open(self) -> Client:
        self.stack = AsyncExitStack()
        self.app = await self.stack.enter_async_context(consul_api(self.store, self.world, self.agent))
        return Client(self.app)

    async def restart(self) -> Client:
        await self.stack.aclose()
        return await self._open()

    async def stop(self) -> None:
        await self.stack.aclose()
        await self.store.close()


@asynccontextmanager
async def registry(**agent: Any) -> AsyncIterator[tuple[Client, Rig]]:
    rig = Rig(agent=Agent(**{"node": "n0", **agent}))
    client = await rig.start()
    try:
        yield client, rig
    finally:
        await rig.stop()
