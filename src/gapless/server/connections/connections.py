"""The live connections of a worker, whatever protocol they speak, and their end that loses nothing.

When others serve on, plain HTTP/1.1 connections are handed over to them between two messages. Any other that is to end
is told so: its next response is its last, and only then is it closed. One on which nothing happens is closed when it
has been quiet for a while, because a client that has nothing to ask cannot be told anything.
"""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import formatdate
from itertools import count, product
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from gapless.server.connections import fate
from gapless.server.connections.give import Giver

OLD_KEPT = b"\r\nconnection: keep-alive"
LOOK_S = 0.25
"""How often a leaving worker looks at all its connections."""
RETRY_S = 0.01
"""How soon to try again to hand over what had bytes to send."""
PART_S = 2.0
"""So long after we stopped accepting, those that leave with us have as well, should nobody tell."""
NEVER = float("inf")
CUT_S = 0.2
"""What a request gets at the deadline to end by itself, when it was told that its client has gone, and once more to
clean up when it was cancelled."""


class Live(Protocol):
    """One connection, as each of our protocol classes implements it. It reports itself by `Connections.made`, `rested`
    and `lost`, and has the responses under way in `Connections.tasks`."""

    transport: asyncio.Transport
    quiet_at: float
    """The loop's time of its last byte received or response ended."""

    @property
    def movable(self) -> bool:
        """Plain HTTP/1.1: `detach` will be possible sooner or later."""

    @property
    def busy(self) -> bool:
        """A request has been received whose response is not complete."""

    @property
    def streaming(self) -> bool:
        """A response without end is under way: server-sent events whose app was not yet told to come to an end."""

    def end_stream(self) -> None:
        """Tell that app, and bring the response to an end in order."""

    def retire(self) -> None:
        """From now on the response that has not begun yet is the last (HTTP/2: GOAWAY). Called once, or again."""

    def close_silent(self) -> None:
        """Close it, unless something has arrived that was only not read yet (see `unread`)."""

    def disconnect(self) -> None:
        """Tell the application that its client has gone."""

    def detach(self) -> int | None:
        """A descriptor of the socket for another process to go on with, and here the connection is gone without a word
        to the client. None when this is not possible now: only between two messages of plain HTTP/1.1, with nothing
        read that is not answered and nothing written that is not sent. Raises OSError when no descriptor is free."""


class Connections:
    """All the connections of a worker. WebSockets (uvicorn's, which have `shutdown` instead) live among them; for them
    this is also uvicorn's ServerState."""

    def __init__(self, keep_alive_s: float, giver: Giver | None = None) -> None:
        self.keep_alive_s = keep_alive_s
        self.changed = asyncio.Event()
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.total_requests = 0
        self.default_headers: list[tuple[bytes, bytes]] = []
        self.closing_headers: list[tuple[bytes, bytes]] = []
        self._tails: dict[tuple[bool, bool, bool], bytes] = {}
        self._giver = giver
        self._order: fate.Order | None = None
        self._moving = False
        self._sharing: asyncio.Future[None] | None = None
        self._resting: dict[Live, None] = {}
        """To be handed over, the last one first: see `rested`."""
        self._held: WeakSet[Live] = WeakSet()
        self._turns: WeakKeyDictionary[Live, float] = WeakKeyDictionary()
        self._numbers = count(1)
        self._shut: WeakSet[Any] = WeakSet()
        self._look_at = 0.0
        self._parted_at = NEVER
        self.date()

    def date(self) -> None:
        """Renew the `date` header; to be called once a second."""
        self.closing_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        told = (b"keep-alive", b"timeout=%d" % self.keep_alive_s)
        self.default_headers = [*self.closing_headers, told]
        date = b"\r\ndate: " + self.closing_headers[0][1]
        kept, closed = b"\r\nkeep-alive: " + told[1], b"\r\nconnection: close"
        self._tails = {
            (keep, old, dated): (b"" if dated else date) + (OLD_KEPT * old + kept if keep else closed) + b"\r\n\r\n"
            for keep, old, dated in product((False, True), repeat=3)
        }

    def tail(self, keep: bool, old: bool, dated: bool) -> bytes:
        """The end of each response's head. `old`: to HTTP/1.0, which must be told that the connection
        stays; `dated`: the app has given the date."""
        return self._tails[keep, old, dated]

    # What the connections report.

    def made(self, live: Live) -> None:
        self.connections.add(live)
        if self._order:
            self._told(live)

    def lost(self, live: Live) -> None:
        self.connections.discard(live)
        self._resting.pop(live, None)
        if not self.connections:
            self.changed.set()

    def rested(self, live: Live) -> None:
        """A response is complete, and nothing of another request has been read. What comes from now on may be for
        another process to read."""
        if self._moving and live.movable:
            live.transport.pause_reading()
            self._held.add(live)
            self._resting.pop(live, None)
            self._resting[live] = None  # before those that were idle already: its client may be about to ask again
            self.changed.set()

    # A pause: others serve, and this worker may yet be called back.

    def share(self) -> None:
        """From now on, what can be handed over is, and everything else goes on as it was. `keep` ends that."""
        self._moving = self._giver is not None
        if self._moving:
            self._resting |= {live: None for live in self._live() if live.movable and not live.busy}
            self._sharing = asyncio.ensure_future(self._share())

    async def _share(self) -> None:
        while self._moving and self._order is None:
            self.changed.clear()
            await self._give()
            try:
                await asyncio.wait_for(self.changed.wait(), RETRY_S if self._resting else LOOK_S)
            except TimeoutError:
                continue

    def keep(self) -> None:
        """This worker serves again."""
        self._moving = False
        for live in self._resting:
            self._release(live)
        self._resting.clear()
        self.changed.set()

    # The end.

    @property
    def leaving(self) -> bool:
        return self._order is not None

    def tell(self, idle_s: float, *, hand_over: bool = False) -> None:
        """From now on, what is not handed over gets its last response, and is closed when it is quiet for `idle_s` from
        now on. Calling again can only shorten that time."""
        now = asyncio.get_running_loop().time()
        before = self._order or fate.Order(now, idle_s)
        self._order = before._replace(idle_s=min(before.idle_s, idle_s))
        self._moving = hand_over and self._giver is not None
        self._look_at = now
        self.changed.set()
        for live in self._live():
            self._told(live)

    def _told(self, live: Live) -> None:
        if self._moving and live.movable:
            if not live.busy:
                self._resting[live] = None
            return
        self._release(live)
        live.retire()

    def _release(self, live: Live) -> None:
        """Let it read on."""
        if live in self._held:
            self._held.discard(live)
            live.transport.resume_reading()

    def parted(self) -> None:
        """None of those that leave accepts any more: who is sent away now comes back to one that stays."""
        self._parted_at = min(self._parted_at, asyncio.get_running_loop().time())
        self._look_at = 0.0
        self.changed.set()

    async def gone(self, limit_s: float) -> bool:
        """Wait until all have ended; False when the limit passed first. After `tell`."""
        loop = asyncio.get_running_loop()
        assert self._order
        self._order = self._order._replace(end_at=loop.time() + limit_s)
        self._parted_at = min(self._parted_at, loop.time() + PART_S)
        while self.connections and (now := loop.time()) < self._order.end_at:
            self.changed.clear()
            self._last_call(now)
            await self._give()
            if now >= self._look_at:
                self._look(now)
            wait_s = min(RETRY_S if self._resting else LOOK_S, self._order.end_at - now, self._look_at - now)
            try:
                await asyncio.wait_for(self.changed.wait(), max(wait_s, 0.001))
            except TimeoutError:
                continue
        return not self.connections

    def _last_call(self, now: float) -> None:
        """What could not be handed over until now, ends like the others."""
        if self._moving and self._order and now >= self._order.last_call_at:
            self.tell(self._order.idle_s)

    async def _give(self) -> None:
        if self._moving and self._giver is not None:
            await self._giver.give(self._resting, self._release, lambda: self._moving)
            for live in [live for live in self._resting if live not in self.connections]:
                del self._resting[live]

    def _live(self) -> list[Live]:
        return [one for one in self.connections if not _is_websocket(one)]

    def _look(self, now: float) -> None:
        """Close what has been quiet for too long, and see when the next one will have been."""
        assert self._order
        self._send_some_away(now)
        self._look_at = now + LOOK_S
        for live in self._live():
            if not live.busy:
                at = fate.close_at(self._order, live.quiet_at, self._turn(live))
                if at <= now:
                    live.close_silent()
                else:
                    self._look_at = min(self._look_at, at)

    def _turn(self, live: Live) -> float:
        if live not in self._turns:
            self._turns[live] = fate.turn_of(next(self._numbers))
        return self._turns[live]

    def _send_some_away(self, now: float) -> None:
        """WebSockets (1012, service restart) and event streams, a few at a time: they all come back, to workers that
        serve others too."""
        assert self._order
        if now < self._parted_at:
            return
        websockets = [one for one in self.connections if _is_websocket(one) and one not in self._shut]
        streams = [live for live in self._live() if live.streaming]
        looks_left = max((self._parted_at + self._order.idle_s - now) / LOOK_S, 1.0)
        for websocket in websockets[: math.ceil(len(websockets) / looks_left)]:
            self._shut.add(websocket)
            websocket.shutdown()
        for stream in streams[: math.ceil(len(streams) / looks_left)]:
            stream.end_stream()

    async def cut(self) -> int:
        """The deadline has passed: end what is left; returns how many connections that were."""
        left = list(self.connections)
        for live in self._live():
            live.disconnect()
        tasks = await self._unfinished()
        for task in tasks:
            task.cancel("the drain limit has passed")
        await self._unfinished()
        for connection in left:
            if connection.transport is not None:
                connection.transport.abort()
        return len(left)

    async def _unfinished(self) -> set[asyncio.Task[None]]:
        """Those of the requests that go on although they were given time."""
        if not self.tasks:
            return set()
        return (await asyncio.wait(list(self.tasks), timeout=CUT_S))[1]


def _is_websocket(connection: Any) -> bool:
    return not hasattr(connection, "retire")
