"""`/v1/event`: custom events."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Any

from gapless.api.consul.answer import Answer, bad_request, failed, told
from gapless.api.consul.pattern import compiled
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.api.consul.watches import Watches
from gapless.core.ports import World
from gapless.discovery.events import EVENTS, EventLog, Fired

PAYLOAD_BYTES = 9 * 1024
"""What Consul's gossip can carry."""


class Events:
    """`node`: ours; events for other nodes are not kept."""

    def __init__(self, log: EventLog, watches: Watches, world: World, node: str) -> None:
        self._log = log
        self._watches = watches
        self._world = world
        self._node = node

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/event/fire/", {"PUT": self.fire})
        yield Route("/v1/event/list", {"GET": self.list})

    async def fire(self, request: Request) -> Answer:
        if not request.rest:
            raise bad_request("Missing name")
        if len(request.body) > PAYLOAD_BYTES:
            raise failed(f"user event exceeds configured limit of {PAYLOAD_BYTES} bytes before encoding")
        for name in ("node", "service", "tag"):
            compiled(request.text(name), f"Invalid {name} filter")
        event = Fired(
            id="".join(self._world.token() for _ in range(4)),
            name=request.rest,
            payload=request.body,
            node=request.text("node"),
            service=request.text("service"),
            tag=request.text("tag"),
        )
        if event.node and not compiled(event.node, "Invalid node filter").search(self._node):
            return told(shown(event))
        return told(shown(self._log.fire(event)))

    async def list(self, request: Request) -> Answer:
        name = request.text("name")
        topic = ("event", name) if name else EVENTS
        await self._watches.until(request, self._log.topics, topic, lambda: self._log.index(name))
        return told([shown(event) for event in self._log.list(name)], self._log.index(name))


def shown(event: Fired) -> dict[str, Any]:
    """In Consul's words."""
    digits = event.id
    return {
        "ID": "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])),
        "Name": event.name,
        "Payload": b64encode(event.payload).decode() if event.payload else None,
        "NodeFilter": event.node,
        "ServiceFilter": event.service,
        "TagFilter": event.tag,
        "Version": 1,
        "LTime": event.number,
    }
