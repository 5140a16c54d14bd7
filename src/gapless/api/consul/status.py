"""`/v1/status`, and the root: who leads, which here is the one registry that there is."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.api.consul.answer import TEXT, Answer, told
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route


class Status:
    """`leader`: the address that servers of a cluster would know each other by (`127.0.0.1:8300`)."""

    def __init__(self, leader: str) -> None:
        self._leader = leader

    def routes(self) -> Iterable[Route]:
        yield Route("/", {"GET": self.root})
        yield Route("/v1/status/leader", {"GET": self.leader})
        yield Route("/v1/status/peers", {"GET": self.peers})

    async def root(self, _: Request) -> Answer:
        """What Consul answers where it has no web page; health checks of the agent itself ask for it."""
        return Answer(b"Consul Agent", kind=TEXT)

    async def leader(self, _: Request) -> Answer:
        return told(self._leader)

    async def peers(self, _: Request) -> Answer:
        return told([self._leader])
