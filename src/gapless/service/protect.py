"""The guard before an app: pure ASGI, by route and by principal.

    app = Protected(app, guard("orders", deadline(2.0), rate("100/s", key="{user}"), limit(50)))
    app = Protected(app, {"/search": searches, "/": others})

Above a rate the answer is 429, beyond a limit or with an open breaker 503, after the deadline 504, each as a problem
document (`protect_problem`). A permit is held until the end of the response, or until the client has gone. What the app
answers with 5xx, or raises, is a failure for the breaker. Keys are made of `user`, `address`, `method` and `path`.

WebSockets and lifespan pass: a connection that stays is no request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gapless.core.errors import ConfigError
from gapless.resilience.errors import Rejected
from gapless.resilience.guard import Guard
from gapless.service.asgi import App, Receive, Scope, Send
from gapless.service.protect_exchange import Disconnected, Exchange
from gapless.service.protect_problem import Problem, refuse

Principal = Callable[[Scope], str]
Serve = Callable[..., Awaitable[None]]

SUITED = frozenset({"deadline", "rate", "limit", "breaker", "fault"})
"""A request's body can be read once, so that nothing here may ask the app twice."""
FAILED_FROM = 500


class ServerFailed(Exception):
    """The app answered with 5xx: told to the guard, and to nobody else."""


def user_of(scope: Scope) -> str:
    """Who asks: `x-user-id`, or else the address."""
    return _header(scope, b"x-user-id") or address_of(scope)


def address_of(scope: Scope) -> str:
    """The client's address. Of a gateway on this machine it is the one that it has added to `x-forwarded-for`."""
    client = scope.get("client")
    peer = str(client[0]) if client else ""
    if not _is_local(peer):
        return peer
    return _header(scope, b"x-forwarded-for").rpartition(",")[2].strip() or peer


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _is_local(peer: str) -> bool:
    """Loopback, or a Unix socket (a path, or nothing at all)."""
    return peer.startswith(("127.", "::1", "/")) or not peer


class Protected:
    """`guards`: one guard for every path, or one for each prefix (the longest decides; elsewhere none), or pairs of
    (host, path) and guard. Raises ConfigError for a policy that cannot stand before an app."""

    def __init__(
        self,
        app: App,
        guards: Guard | Mapping[str, Guard] | Sequence[tuple[tuple[str, str], Guard]],
        *,
        principal: Principal = user_of,
    ) -> None:
        self._app = app
        self._principal = principal
        self.put(guards)

    def put(self, guards: Guard | Mapping[str, Guard] | Sequence[tuple[tuple[str, str], Guard]]) -> None:
        """These guards from the next request on. Raises ConfigError and changes nothing."""
        self._places = [(host, path, guard.name, guard(self._serve)) for (host, path), guard in _pairs(guards)]
        self._by_host = any(host != "*" for host, _, _, _ in self._places)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(receive, send)
        name, serve = found
        try:
            await serve(self._principal(scope), address_of(scope), scope["method"], scope["path"], scope, exchange)
        except Rejected as error:
            if exchange.status:
                raise
            await refuse(send, Problem.of(error, own=error.guard == name))
        except ServerFailed:
            return  # it has answered
        finally:
            exchange.close()

    async def _serve(self, user: str, address: str, method: str, path: str, scope: Scope, exchange: Exchange) -> None:
        """What is guarded; its parameters are what keys can be made of."""
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Disconnected:
            return
        if exchange.status >= FAILED_FROM:
            raise ServerFailed(exchange.status)

    def _find(self, scope: Scope) -> tuple[str, Serve] | None:
        path = scope["path"]
        host = _header(scope, b"host").partition(":")[0].lower() if self._by_host else ""
        for pattern, prefix, name, serve in self._places:
            if below(prefix, path) and (pattern == "*" or covers(pattern, host)):
                return name, serve
        return None


def below(prefix: str, path: str) -> bool:
    """Whether a path is the prefix or below it, as in the gateway: `/orders` is not for `/orders-old`."""
    return path.startswith(prefix if prefix.endswith("/") else prefix + "/") or path == prefix


def covers(pattern: str, host: str) -> bool:
    """Whether `*.example.com` or a plain name is for a host."""
    return host.endswith(pattern[1:]) if pattern.startswith("*") else host == pattern


def _pairs(guards: Any) -> list[tuple[tuple[str, str], Guard]]:
    if isinstance(guards, Guard):
        guards = {"/": guards}
    pairs = [(("*", path), guard) for path, guard in guards.items()] if isinstance(guards, Mapping) else list(guards)
    for _, guard in pairs:
        check_suited(guard)
    return sorted(pairs, key=lambda pair: (-len(pair[0][1]), -len(pair[0][0].lstrip("*"))))


def check_suited(guard: Guard) -> None:
    """Raises ConfigError."""
    wrong = [policy.kind for policy in guard.policies if policy.kind not in SUITED]
    if wrong:
        raise ConfigError(
            f"guard {guard.name!r} has {', '.join(wrong)}, which cannot stand before an app: a request is read once",
            f"Keep to {', '.join(sorted(SUITED - {'fault'}))}; put the others around what the app calls.",
        )
