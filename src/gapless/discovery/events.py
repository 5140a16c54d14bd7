"""Events that agents tell each other: a few hundred of the newest, in memory. Whoever comes too late misses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from gapless.core.ports import World
from gapless.discovery.topics import Topics

KEPT = 256
"""As many as Consul's agents keep."""
EVENTS = "events"
"""Topic: events of any name."""


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """An event. Filters are regular expressions, kept as they were given."""

    id: str
    name: str
    payload: bytes = b""
    node: str = ""
    service: str = ""
    tag: str = ""
    number: int = 0
    """Rises from event to event."""


class EventLog:
    """Numbers are milliseconds of the clock where they can be, so that they rise over a restart, too."""

    def __init__(self, world: World) -> None:
        self.topics = Topics()
        self._world = world
        self._kept: deque[Fired] = deque(maxlen=KEPT)
        self._number = 1

    def fire(self, event: Fired) -> Fired:
        """It, with its number; who waits for it is woken."""
        self._number = max(self._number + 1, int(self._world.time() * 1000))
        fired = msgspec.structs.replace(event, number=self._number)
        self._kept.append(fired)
        self.topics.move(EVENTS, fired.number)
        self.topics.wake(("event", fired.name), fired.number)
        return fired

    def list(self, name: str = "") -> Sequence[Fired]:
        """Those kept, oldest first."""
        return [one for one in self._kept if not name or one.name == name]

    def index(self, name: str = "") -> int:
        """The number of the newest one."""
        return next((one.number for one in reversed(self._kept) if not name or one.name == name), 1)
