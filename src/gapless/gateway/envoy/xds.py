"""The aggregated discovery service: delta xDS over gRPC, and beside it the sink of the access log.

A thin loop around `delta.Connection`: bytes become events, decisions become bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gapless.core.errors import GaplessError, GatewayMissing, TrafficRefused
from gapless.core.model import Door
from gapless.gateway.envoy.delta import Asked, Connection, Refusal, Snapshot, Told, follow
from gapless.gateway.envoy.doors import DISCOVERY, Doors
from gapless.gateway.envoy.nodes import LOCAL, Node, Place, node_of
from gapless.gateway.envoy.protos import Messages, varint
from gapless.gateway.envoy.words import plain

_log = logging.getLogger("gapless.gateway.xds")


class Refused(GaplessError):
    """Envoy refused; `what` is its own words, `gateway` which one when it is elsewhere."""

    def __init__(self, what: str, gateway: str = "") -> None:
        super().__init__(what)
        self.gateway = gateway


@dataclass(slots=True, eq=False)
class Link:
    """A connected Envoy: what it has, and the responses on their way to it."""

    state: Connection = field(default_factory=Connection)
    outbox: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    lagging: bool = False
    """It did not acknowledge in time while another one did: nobody waits for it until it has caught up."""
    node: Node = LOCAL
    since_at: float = 0.0
    joined: bool = True
    """False: it is elsewhere and has not served yet. It cannot hold up or refuse what the others obey."""
    acknowledged: int = 0
    """The version of the newest table that it obeys; 0: none."""
    refused: str = ""
    """Why it does not take the newest truth."""

    @property
    def awaited(self) -> bool:
        return self.joined and not self.lagging


class XdsServer:
    """Serves one truth to every Envoy that connects; what differs by a gateway's place is made by `vary`."""

    def __init__(
        self,
        messages: Messages,
        socket: Path,
        on_refused: Callable[[str], None],
        on_log: Callable[[Any], None],
        time: Callable[[], float],
        door: Door | None = None,
        vary: Callable[[Place, Snapshot], Snapshot] = lambda place, truth: truth,
        on_join: Callable[[Place], None] = lambda place: None,
    ) -> None:
        """`time`: seconds since the epoch. `door`: for gateways elsewhere."""
        self._messages = messages
        self._socket = socket
        self._on_refused = on_refused
        self._time = time
        self._links: set[Link] = set()
        self._truth: Snapshot | None = None
        self._vary = vary
        self._on_join = on_join
        self._varied: dict[Place, Snapshot] = {}
        self._version = 0
        self._count = 0
        self._encoded: tuple[object, bytes] = (None, b"")
        self._refusal: Refused | None = None
        self._waiters: set[asyncio.Event] = set()
        self._doors = Doors(socket, door, messages, self._stream, on_log)

    @property
    def connected(self) -> int:
        """Envoys that are connected now."""
        return len(self._links)

    @property
    def lagging(self) -> int:
        """Those of them that nobody waits for, because they have not acknowledged in time."""
        return sum(link.lagging for link in self._links)

    @property
    def settled(self) -> bool:
        """An Envoy is connected, and all that are have acknowledged the present truth."""
        return self._truth is not None and self._settled()

    @property
    def links(self) -> list[Link]:
        """Those of now, by name, the one that came first before."""
        return sorted(self._links, key=lambda link: (link.node.name, link.since_at))

    @property
    def places(self) -> set[Place]:
        """Of the gateways elsewhere that are connected."""
        return {link.node.place for link in self._links if link.node.place}

    async def start(self) -> None:
        """Listen. Raises what `Doors.start` raises."""
        await self._doors.start()

    async def stop(self) -> None:
        """Close the streams; the Envoys go on with what they have."""
        for link in tuple(self._links):
            link.outbox.put_nowait(None)
        await self._doors.stop()

    async def publish(self, truth: Snapshot, limit_s: float, version: int = 0) -> None:
        """Make it the truth and wait until every connected Envoy (at least one) has acknowledged it. One that has not
        within the limit, while another one has, is not waited for again before it has caught up: a hung gateway must
        not hold up all changes.

        Raises Refused with Envoy's words; the refused truth stays until another is published. Raises GatewayMissing
        when no Envoy has connected within the limit, and TrafficRefused when one has but does not answer; the truth
        then stays for whoever connects next.
        """
        self._refusal = None
        self._say(truth, version)
        try:
            async with asyncio.timeout(limit_s):
                await self.until(lambda: bool(self._refusal) or self._settled())
        except TimeoutError:
            if not self._go_without(limit_s):
                raise self._overdue(limit_s) from None
        if self._refusal:
            raise self._refusal

    def retract(self, truth: Snapshot | None, version: int = 0) -> None:
        """Go back to an earlier truth, without waiting."""
        self._say(truth, version)

    def _say(self, truth: Snapshot | None, version: int) -> None:
        self._truth = self._numbered(truth) if truth else None
        self._version = version
        before, self._varied = self._varied, {}
        for place in self.places if self._truth else ():
            self._make(place, before.get(place))
        for link in self._links:
            link.refused = ""
            self._push(link)

    def _make(self, place: Place, before: Snapshot | None) -> None:
        assert self._truth is not None
        self._varied[place] = follow(before, self._vary(place, self._truth), self._truth.number)

    def _numbered(self, truth: Snapshot) -> Snapshot:
        self._count += 1
        return follow(self._truth, truth, self._count)

    def _truth_of(self, link: Link) -> Snapshot | None:
        place = link.node.place
        if place is None or self._truth is None:
            return self._truth
        if place not in self._varied:
            self._make(place, None)
        return self._varied[place]

    def _obeys(self, link: Link) -> bool:
        truth = self._truth_of(link)
        return truth is not None and link.state.settled(truth)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds; looked at whenever an Envoy connects, answers or leaves."""
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            while not condition():
                event.clear()
                await event.wait()
        finally:
            self._waiters.discard(event)

    def _settled(self) -> bool:
        """Also takes down who obeys by now."""
        for link in self._links:
            self._look(link)
        awaited = [link for link in self._links if link.awaited]
        return bool(awaited) and all(self._obeys(link) for link in awaited)

    def _look(self, link: Link) -> None:
        if self._obeys(link):
            link.lagging, link.joined, link.acknowledged = False, True, self._version

    def _go_without(self, limit_s: float) -> bool:
        late = [link for link in self._links if link.awaited and not self._obeys(link)]
        if not any(self._obeys(link) for link in self._links):
            return False
        for link in late:
            link.lagging = True
        names = ", ".join(sorted(link.node.name for link in late))
        counts = len(late), len(self._links), names, limit_s
        _log.error("%d of %d Envoys (%s) have not acknowledged within %g s; nobody waits for them any more", *counts)
        return True

    def _overdue(self, limit_s: float) -> GaplessError:
        if not self._links:
            return GatewayMissing(
                f"no Envoy has connected to {self._socket} within {limit_s:g} s",
                "See logs/envoy.log in the state directory; the routes are kept for it.",
            )
        return TrafficRefused(
            f"Envoy has not acknowledged the routes within {limit_s:g} s",
            "See logs/envoy.log in the state directory; the machine may be overloaded.",
        )

    def _push(self, link: Link) -> None:
        while (told := link.state.next(self._truth_of(link))) is not None:
            link.outbox.put_nowait(self._encode(told))

    def _notify(self) -> None:
        for event in self._waiters:
            event.set()

    async def _stream(self, requests: AsyncIterator[Any], context: Any, away: bool) -> AsyncIterator[bytes]:
        link = Link(since_at=self._time(), joined=not away)
        reader = asyncio.create_task(self._read(link, requests, away))
        try:
            while (data := await link.outbox.get()) is not None:
                yield data
        finally:
            self._links.discard(link)
            self._notify()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(self, link: Link, requests: AsyncIterator[Any], away: bool) -> None:
        try:
            async for request in requests:
                if link not in self._links:
                    self._welcome(link, request, away)
                self._take(link, _asked(request))
        except ValueError as error:
            _log.error("a gateway is sent away: %s", error)
        finally:
            link.outbox.put_nowait(None)

    def _welcome(self, link: Link, first: Any, away: bool) -> None:
        """Its first request says who it is; one that says what it has has served before. Raises ValueError."""
        link.node = node_of(first.node, away)
        link.joined = not away or bool(first.initial_resource_versions)
        self._links.add(link)
        if place := link.node.place:
            _log.info("gateway %s at %s is connected", link.node.name, place.listen)
            self._on_join(place)

    def _take(self, link: Link, request: Asked) -> None:
        refusal = link.state.asked(request)
        if refusal is not None:
            self._hear(link, request.type_url, refusal)
        self._push(link)
        self._look(link)
        self._notify()

    def _hear(self, link: Link, type_url: str, refusal: Refusal) -> None:
        name = link.node.name if link.node.place else ""
        _log.error("%s refuses %s: %s", f"gateway {name}" if name else "Envoy", type_url, refusal.text)
        if self._truth and refusal.truth.number == self._truth.number:
            link.refused = refusal.text
            if link.joined:
                self._refusal = Refused(refusal.text, name)
        self._on_refused(f"gateway {name}: {refusal.text}" if name else refusal.text)

    def _encode(self, told: Told) -> bytes:
        """The same for all Envoys but for the nonce, a field that is put behind the others, and for what differs by
        place, which has a version of its own."""
        versions = tuple([(name, item.version) for name, item in told.items.items()])
        what = (told.type_url, told.truth.number, versions, told.removed)
        if self._encoded[0] != what:
            self._encoded = (what, self._body(told))
        return self._encoded[1] + _nonce(told.nonce)

    def _body(self, told: Told) -> bytes:
        response = self._messages.message(DISCOVERY + "DeltaDiscoveryResponse")(
            type_url=told.type_url, removed_resources=told.removed
        )
        for name, item in told.items.items():
            resource = response.resources.add(name=name, version=item.version)
            resource.resource.type_url = told.type_url
            resource.resource.value = item.content()
            if item.until_at:
                resource.ttl.FromMilliseconds(max(round((item.until_at - self._time()) * 1000), 1))
        return bytes(response.SerializeToString())


def _nonce(nonce: str) -> bytes:
    """`DeltaDiscoveryResponse.nonce`, field 5, in protobuf's encoding."""
    data = nonce.encode()
    return bytes([5 << 3 | 2]) + varint(len(data)) + data


def _asked(request: Any) -> Asked:
    error = plain(request.error_detail.message) if request.HasField("error_detail") else ""
    return Asked(
        type_url=request.type_url,
        subscribe=tuple(request.resource_names_subscribe),
        unsubscribe=tuple(request.resource_names_unsubscribe),
        initial=dict(request.initial_resource_versions),
        nonce=request.response_nonce,
        error=error,
    )
