"""The settings of a service: made by its author's function at the start, or live."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from gapless.observe.metrics import Meter
from gapless.service.asgi import App, Receive, Scope, Send
from gapless.service.identity import Identity

if TYPE_CHECKING:
    from gapless.config.live_settings import Live
    from gapless.core.ports import World
    from gapless.service.config_follower import Follower


class Configuration:
    """`given`: what the author gave to `Service(settings=…)`: a function, live settings, or nothing."""

    def __init__(self, given: Callable[[], Any] | Live[Any] | None, identity: Identity, world: World) -> None:
        self._make = given if callable(given) else None
        self.live: Live[Any] | None = None if callable(given) else given
        self._identity = identity
        self._world = world
        self._follower: Follower | None = None

    async def load(self) -> Any:
        """What `service.settings` is. Raises what the author's function raises, or ConfigError."""
        if self.live is None:
            return self._make() if self._make else None
        if self._identity.control and not self.live.has_store:  # one of the author's own comes instead of the system's
            from gapless.service.config_follower import Follower

            self._follower = Follower.of_control(self.live, self._identity, self._world)
        await self.live.load(await self._follower.first() if self._follower else None)
        return self.live

    def observe(self, meter: Meter) -> None:
        """Have the meter show live settings: `gapless_settings_changes_total{outcome}` (taken, refused) and
        `gapless_settings_pending` (settings that wait for a restart)."""
        if self.live is None:
            return
        live = self.live
        changes = meter.counter("gapless_settings_changes", "Changes of live settings", ("outcome",))
        pending = meter.gauge("gapless_settings_pending", "Settings that wait for a restart").labels()

        def read() -> None:
            changes.labels("taken").set(live.taken)
            changes.labels("refused").set(live.refused)
            pending.set(len(live.pending))

        meter.before_samples(read)

    def loops(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What runs beside the requests, by name."""
        if self.live is None:
            return {}
        follow = {"configuration": self._follower.follow} if self._follower else {}
        return {"live settings": self.live.watch, **follow}

    def pin(self) -> None:
        """What begins in this context sees one configuration to its end."""
        if self.live is not None:
            self.live.pin()

    def around(self, app: App) -> App:
        """The app, each of whose requests sees one configuration to its end."""
        return app if self.live is None else partial(_pinned, app, self.live)


async def _pinned(app: App, live: Live[Any], scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return await app(scope, receive, send)  # a WebSocket lasts for hours: it sees what is newest
    token = live.pin()
    try:
        await app(scope, receive, send)
    finally:
        live.unpin(token)
