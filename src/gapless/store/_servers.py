"""The servers of a store beyond this machine, over HTTP: their address, TLS, and whichever of them answers."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import httpcore

from gapless.core.errors import ConfigError, StoreUnreachable
from gapless.store._address import shown

T = TypeVar("T")

CONNECT_S = 1.0
CALL_S = 5.0
"""Beyond two elections (1 s each by default): a cluster that has not answered by then will not soon."""
RENEW_S = 1.0
"""For a lease's renewal at one server: it must reach another one while the lease still lives."""
STREAMS = 10_000
"""Each watch may take a connection of its own."""
BROKEN = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)
"""How a request may end without an answer. OSError: an alert of TLS behind the handshake is none of httpcore's."""
_UNSENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout)
_KEEPALIVE = ((1, 9, 1), (6, 4, 5), (6, 5, 2), (6, 6, 3))
"""SO_KEEPALIVE after 5 s, every 2 s, 3 times: a machine that vanished is noticed on a quiet watch."""
_FILES = {"ca", "cert", "key"}

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Of a store: `kind` is its name for people. `token` is Consul's, `user` and `password` are etcd's."""

    kind: str
    servers: tuple[tuple[str, int], ...]
    prefix: str
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an address of a kind may look like. `options`: those behind `?` beside ca, cert and key."""

    kind: str
    scheme: str
    """With an s at its end: over TLS."""
    port: int
    prefix: str
    usage: str
    options: frozenset[str] = frozenset()

    def read(self, where: str) -> Address:
        """`SCHEME://[USER:PASSWORD@]HOST:PORT,…/PREFIX/?…`. Raises ConfigError."""
        parts = urlsplit(where)
        account, _, hosts = parts.netloc.rpartition("@")
        user, _, password = account.partition(":")
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = asked.keys() - _FILES - self.options
        if parts.scheme not in (self.scheme, f"{self.scheme}s") or not hosts or unknown:
            raise ConfigError(f"store {shown(where)!r} is no address of {self.kind}", self.usage)
        return Address(
            kind=self.kind,
            servers=tuple(self._server(where, host) for host in hosts.split(",")),
            prefix=parts.path if len(parts.path) > 1 else self.prefix,
            tls=parts.scheme != self.scheme or bool(asked.keys() & _FILES),
            user=unquote(user),
            password=unquote(password),
            **asked,
        )

    def _server(self, where: str, host: str) -> tuple[str, int]:
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, str(self.port)
        if not name or not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"store {shown(where)!r}: {host!r} is no server", self.usage)
        return name.strip("[]"), int(port)


class Lost(StoreUnreachable):
    """The connection broke before the answer: nobody knows whether a write was done."""

    remedy = "Read the key to find out, then decide whether to write it again."


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: Headers = ()


class Servers:
    """Asks the one that answered last; the next one when that is gone."""

    def __init__(self, where: Address) -> None:
        self._where = where
        self._now = 0
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls(where) if where.tls else None, max_connections=STREAMS, socket_options=_KEEPALIVE
        )

    @property
    def count(self) -> int:
        return len(self._where.servers)

    @property
    def current(self) -> int:
        return self._now

    def skip(self, server: int) -> None:
        """It does not answer: let the next one be asked, unless that has happened meanwhile."""
        if self._now == server:
            self._now = (server + 1) % self.count

    async def close(self) -> None:
        await self._pool.aclose()

    async def first(self, ask: Callable[[int], Awaitable[T]], *, again: bool) -> T:
        """What the first server says that answers. `ask` raises StoreUnreachable for a server that cannot serve now.
        `again`: asking twice does no harm, so a lost answer is asked of the next one. Raises StoreUnreachable (Lost
        among them), and whatever else `ask` raises."""
        reason: Exception | None = None
        for _ in range(self.count + 1):
            server = self._now
            try:
                return await ask(server)
            except StoreUnreachable as error:
                if not again:
                    raise
                reason = error
            except _UNSENT as error:
                reason = error
            except BROKEN as error:
                if not again:
                    self.skip(server)
                    raise Lost(f"{self._where.kind} at {self.name(server)} broke off: {_words(error)}") from error
                reason = error
            self.skip(server)
        names = ", ".join(map(self.name, range(self.count)))
        raise StoreUnreachable(f"no {self._where.kind} answers at {names}: {_words(reason)}") from reason

    async def request(
        self, server: int, method: str, target: str, headers: Headers, body: bytes, limit_s: float
    ) -> Reply:
        """Of this very server. Raises BROKEN."""
        answer = await self._pool.request(
            method,
            self._url(server, target),
            headers=self._with_host(headers),
            content=body,
            extensions=_limits(limit_s),
        )
        return Reply(answer.status, answer.content, answer.headers)

    def stream(
        self, server: int, method: str, target: str, headers: Headers, body: bytes
    ) -> AbstractAsyncContextManager[httpcore.Response]:
        """An answer without an end, of this very server. Raises BROKEN."""
        return self._pool.stream(
            method, self._url(server, target), headers=self._with_host(headers), content=body, extensions=_limits(None)
        )

    def name(self, server: int) -> str:
        host, port = self._where.servers[server]
        return f"{host}:{port}"

    def _url(self, server: int, target: str) -> httpcore.URL:
        host, port = self._where.servers[server]
        return httpcore.URL(
            scheme=b"https" if self._where.tls else b"http", host=host.encode(), port=port, target=target.encode()
        )

    def _with_host(self, headers: Headers) -> Headers:
        return [(b"host", self.name(self._now).encode()), *headers]


def tls(where: Address) -> ssl.SSLContext:
    """Raises ConfigError for files that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=where.ca or None)
        if where.cert:
            context.load_cert_chain(where.cert, where.key or None)
    except OSError as error:
        raise ConfigError(
            f"the certificates for {where.kind} cannot be used: {error}", "Check ca=, cert= and key=."
        ) from error
    return context


def _limits(read_s: float | None) -> dict[str, Any]:
    return {"timeout": {"connect": CONNECT_S, "pool": CONNECT_S, "read": read_s, "write": CALL_S}}


def _words(error: Exception | None) -> str:
    return str(error) or type(error).__name__
