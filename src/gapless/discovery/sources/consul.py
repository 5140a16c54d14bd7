"""Instances that an agent with Consul's HTTP API knows: `consul://HOST:8500?dc=…&tag=…&token=…`, `consuls://` for TLS
(`?ca=FILE`). A blocking query per service waits for its next change (`consul_health` decides)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gapless.core.codec import encode
from gapless.core.errors import ConfigError, DiscoveryLost
from gapless.core.model import Endpoint
from gapless.core.ports import World
from gapless.discovery.sights import PATH, Report
from gapless.discovery.sources.consul_health import (
    EVERYTHING,
    PAUSE_S,
    WAIT_S,
    Options,
    endpoints_of,
    next_index,
    target,
)
from gapless.discovery.sources.source import USAGE, Reporter, options_of

if TYPE_CHECKING:
    import httpcore

PORT = 8500
CONNECT_S = 1.0
READ_S = WAIT_S * 17 / 16 + 10.0
"""The wait, what the agent adds to it so that its clients do not all come at once, and time to answer."""
STREAMS = 1000
"""Each service that is followed takes a connection of its own while its query blocks."""
KEEPALIVE = ((1, 9, 1), (6, 4, 5), (6, 5, 2), (6, 6, 3))
"""SO_KEEPALIVE after 5 s, every 2 s, 3 times: an agent whose machine vanished is noticed during a quiet wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    host: str
    port: int = PORT
    tls: bool = False
    ca: str = ""
    token: str = ""
    options: Options = EVERYTHING

    def __str__(self) -> str:
        return f"{'consuls' if self.tls else 'consul'}://{self.host}:{self.port}"


def agent_of(address: str) -> Agent:
    """Raises ConfigError."""
    parts, given = options_of(address, "dc", "tag", "token", "ca")
    if not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError(f"discovery {parts.scheme}://{parts.netloc} names no agent", USAGE)
    known = dict(given)
    return Agent(
        host=parts.hostname,
        port=parts.port or PORT,
        tls=parts.scheme == "consuls",
        ca=known.get("ca", ""),
        token=known.get("token", ""),
        options=Options(known.get("dc", ""), tuple(value for name, value in given if name == "tag")),
    )


class ConsulSource:
    """`discovery.source.Source`."""

    def __init__(self, agent: Agent, world: World) -> None:
        self._agent, self._world = agent, world

    async def follow(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        index = 0
        while True:
            asked_at = self._world.now()
            told, body = await self._ask(target(service, index, self._agent.options))
            index = next_index(index, told)
            yield endpoints_of(body)
            await self._world.sleep(PAUSE_S - (self._world.now() - asked_at))

    def reporter(self) -> Reporter | None:
        return self._report

    async def aclose(self) -> None:
        if "_pool" in self.__dict__:
            await self._pool.aclose()

    @cached_property
    def _pool(self) -> httpcore.AsyncConnectionPool:
        import httpcore

        return httpcore.AsyncConnectionPool(
            ssl_context=_tls(self._agent) if self._agent.tls else None,
            max_connections=STREAMS,
            socket_options=KEEPALIVE,
        )

    async def _ask(self, path: str) -> tuple[str, bytes]:
        """The index and the body of the answer. Raises DiscoveryLost."""
        answer = await self.send("GET", path, b"", READ_S)
        return _index(answer.headers), answer.content

    async def _report(self, report: Report) -> None:
        """Raises DiscoveryLost, also of an agent that does not want to know."""
        await self.send("PUT", PATH, encode(report), CONNECT_S)

    async def send(self, method: str, path: str, body: bytes, read_s: float) -> httpcore.Response:
        """Raises DiscoveryLost, AgentRefused."""
        import httpcore

        agent = self._agent
        url = httpcore.URL(
            scheme=b"https" if agent.tls else b"http", host=agent.host.encode(), port=agent.port, target=path.encode()
        )
        try:
            answer = await self._pool.request(
                method,
                url,
                headers=[(b"host", f"{agent.host}:{agent.port}".encode()), *self._token()],
                content=body,
                extensions={"timeout": {"connect": CONNECT_S, "pool": CONNECT_S, "read": read_s, "write": CONNECT_S}},
            )
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise DiscoveryLost(f"{agent} does not answer: {str(error) or type(error).__name__}") from error
        if answer.status != 200:
            raise _refused(agent, answer.status, answer.content)
        return answer

    def _token(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-consul-token", self._agent.token.encode("latin-1"))] if self._agent.token else []


def _index(headers: list[tuple[bytes, bytes]]) -> str:
    return next((value.decode("latin-1") for name, value in headers if name.lower() == b"x-consul-index"), "")


class AgentRefused(DiscoveryLost):
    """The agent answered, but not with what was asked of it."""

    def __init__(self, status: int, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.status = status


def _refused(agent: Agent, status: int, body: bytes) -> AgentRefused:
    words = body[:200].decode("utf-8", "replace").strip()
    remedy = "Give a token that may read the service: ?token=… in the address." if status in (401, 403) else ""
    return AgentRefused(status, f"{agent} answered {status} {words}".rstrip(), remedy)


def _tls(agent: Agent) -> ssl.SSLContext:
    """Raises ConfigError for a file that cannot be used."""
    try:
        return ssl.create_default_context(cafile=agent.ca or None)
    except OSError as error:
        raise ConfigError(
            f"certificates in {agent.ca!r} cannot be used: {error}", "Check ca= in the address."
        ) from error
