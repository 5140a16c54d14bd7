"""`/v1/session`: what locks hang on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from gapless.api.consul.answer import TRUE, Answer, bad_request, failed, not_found, told
from gapless.api.consul.bodies import Body
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.api.consul.watches import Watches
from gapless.core.duration import format_duration, parse_duration
from gapless.core.errors import LeaseLost
from gapless.core.ports import World
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import SERF_HEALTH
from gapless.discovery.kv.kv import LONGEST_DELAY_S, KeyValues
from gapless.discovery.kv.rows import DELETE, RELEASE, Session
from gapless.discovery.kv.session_checks import complaint
from gapless.discovery.kv.state import SESSIONS

SHORTEST_TTL_S = 10.0
LONGEST_TTL_S = 86_400.0
TTL_FACTOR = 2.0
"""A session's time is a lower bound, and ends after twice as long: Consul does so, and clients (Patroni) count on
it."""
LOCK_DELAY_S = 15.0
SECONDS_BELOW = 1000
"""A lock delay that is a smaller number is meant in seconds, any other in nanoseconds."""


class ServiceCheck(Body):
    id: str = msgspec.field(default="", name="ID")
    namespace: str = ""


class Create(Body):
    name: str = ""
    node: str = ""
    checks: list[str] | None = None
    node_checks: list[str] | None = None
    service_checks: list[ServiceCheck] = msgspec.field(default_factory=list)
    lock_delay: str | float = "15s"
    behavior: str = RELEASE
    ttl: str = msgspec.field(default="", name="TTL")


class Sessions:
    """`node`: where sessions are that name none."""

    def __init__(self, keys: KeyValues, catalog: Catalog, watches: Watches, world: World, node: str) -> None:
        self._keys = keys
        self._state = keys.state
        self._catalog = catalog
        self._watches = watches
        self._world = world
        self._node = node

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/session/create", {"PUT": self.create})
        yield Route("/v1/session/destroy/", {"PUT": self.destroy})
        yield Route("/v1/session/renew/", {"PUT": self.renew})
        yield Route("/v1/session/info/", {"GET": self.info})
        yield Route("/v1/session/node/", {"GET": self.node})
        yield Route("/v1/session/list", {"GET": self.list})

    async def create(self, request: Request) -> Answer:
        asked = request.json(Create) if request.body.strip() else Create()
        ttl_s = _ttl_s(asked.ttl)
        session = Session(
            id=self._new_id(),
            name=asked.name,
            node=asked.node or self._node,
            behavior=_behavior(asked.behavior),
            ttl=asked.ttl,
            lock_delay_s=_lock_delay_s(asked.lock_delay),
            node_checks=tuple(_node_checks(asked)),
            service_checks=tuple(check.id for check in asked.service_checks),
        )
        self._check(session)
        return told({"ID": await self._keys.create(session, ttl_s * TTL_FACTOR)})

    def _new_id(self) -> str:
        digits = "".join(self._world.token() for _ in range(4))
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def _check(self, session: Session) -> None:
        """Raises Refusal (500) for a node or checks that it cannot hang on."""
        if reason := complaint(self._catalog, session):
            raise failed(reason)

    async def destroy(self, request: Request) -> Answer:
        await self._keys.destroy(_id(request))
        return TRUE

    async def renew(self, request: Request) -> Answer:
        asked = _id(request)
        session = self._state.sessions.get(asked)
        if session is None:
            raise _unknown(asked)
        try:
            await self._keys.renew(session)
        except LeaseLost as error:
            raise _unknown(asked) from error
        return told([shown(session)])

    async def info(self, request: Request) -> Answer:
        asked, state = _id(request), self._state
        found = await self._found(request, ("session", asked), lambda: state.session_index(asked))
        session = state.sessions.get(asked)
        return told([shown(session)] if session else [], found)

    async def node(self, request: Request) -> Answer:
        name, state = request.rest, self._state
        if not name:
            raise bad_request("Missing node name")
        found = await self._found(request, ("sessions of", name), lambda: state.node_index(name))
        return told([shown(one) for one in self._sorted() if one.node == name], found)

    async def list(self, request: Request) -> Answer:
        found = await self._found(request, SESSIONS, self._state.sessions_index)
        return told([shown(one) for one in self._sorted()], found)

    async def _found(self, request: Request, topic: Any, index: Callable[[], int]) -> int:
        await self._watches.until(request, self._state.topics, topic, index)
        return index()

    def _sorted(self) -> Sequence[Session]:
        return sorted(self._state.sessions.values(), key=lambda session: session.id)


def _id(request: Request) -> str:
    """Raises Refusal (400)."""
    if not request.rest:
        raise bad_request("Missing session")
    return request.rest


def _unknown(asked: str) -> Exception:
    return not_found(f"Session id '{asked}' not found")


def _node_checks(asked: Create) -> list[str]:
    given = asked.node_checks if asked.node_checks is not None else asked.checks
    return [SERF_HEALTH] if given is None else given


def _behavior(text: str) -> str:
    """Raises Refusal (500)."""
    if text not in ("", RELEASE, DELETE):
        raise failed(f"Invalid Behavior setting '{text}'")
    return text or RELEASE


def _ttl_s(text: str) -> float:
    """0 for none. Raises Refusal: 400 for no duration, 500 for one out of bounds."""
    if not text:
        return 0.0
    try:
        ttl_s = parse_duration(text)
    except ValueError as error:
        raise bad_request(f"Request TTL decode failed: {error}") from error
    if ttl_s and not SHORTEST_TTL_S <= ttl_s <= LONGEST_TTL_S:
        bounds = f"{format_duration(SHORTEST_TTL_S)}={format_duration(LONGEST_TTL_S)}"
        raise failed(f"Invalid Session TTL '{format_duration(ttl_s)}', must be between [{bounds}]")
    return ttl_s


def _lock_delay_s(given: str | float) -> float:
    """Raises Refusal (400)."""
    if isinstance(given, str):
        try:
            delay_s = parse_duration(given) if given else LOCK_DELAY_S
        except ValueError as error:
            raise bad_request(f"Request decode failed: {error}") from error
    else:
        delay_s = given if given < SECONDS_BELOW else given / 1e9
    return min(max(delay_s, 0.0), LONGEST_DELAY_S)


def shown(session: Session) -> dict[str, Any]:
    """In Consul's words."""
    return {
        "ID": session.id,
        "Name": session.name,
        "Node": session.node,
        "LockDelay": round(session.lock_delay_s * 1e9),
        "Behavior": session.behavior,
        "TTL": session.ttl,
        "Checks": list(session.node_checks),
        "NodeChecks": list(session.node_checks),
        "ServiceChecks": [{"ID": check, "Namespace": ""} for check in session.service_checks] or None,
        "CreateIndex": session.created,
        "ModifyIndex": session.created,
    }
