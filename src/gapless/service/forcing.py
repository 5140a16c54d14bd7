"""Breakers that the control plane holds open, or closed, in a running instance, until a moment at most.

It hears of them with the routing table. When nobody speaks any more, they end by themselves: a control plane that is
away must not keep a service shut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gapless.core.errors import ConfigError

if TYPE_CHECKING:
    from gapless.core.model import RouteTable
    from gapless.core.model.alert import Forced
    from gapless.core.ports import World
    from gapless.resilience.guard import Guard

_log = logging.getLogger("gapless.protect")

LONGEST_S = 600.0
"""Whatever is said: clocks of two machines may be far apart."""


class Forcing:
    """`guards`: those that a name means; "" is what `protect` puts before the service."""

    def __init__(self, service: str, guards: Callable[[str], Iterable[Guard]], world: World) -> None:
        self._service = service
        self._guards = guards
        self._world = world
        self._held: dict[Forced, Callable[[], None]] = {}

    def follow(self, table: RouteTable) -> None:
        """What the control plane says now, if it speaks of this service at all."""
        found = next((each for each in table.services if each.service == self._service), None)
        if found is None:
            return
        for forced in [each for each in self._held if each not in found.forced]:
            self._release(forced)
        for forced in found.forced:
            if forced not in self._held and forced.until_at > self._world.time():
                self._hold(forced)

    def _hold(self, forced: Forced) -> None:
        self._force(forced, forced.mode)
        left_s = min(forced.until_at - self._world.time(), LONGEST_S)
        self._held[forced] = self._world.after(left_s, lambda: self._release(forced))

    def _release(self, forced: Forced) -> None:
        self._held.pop(forced)()
        self._force(forced, "automatic")

    def _force(self, forced: Forced, mode: str) -> None:
        for guard in self._guards(forced.guard):
            try:
                guard.force(mode)
            except ConfigError as error:
                _log.debug("%s", error)  # one of several that has no breaker
            else:
                _log.warning("guard %r: its breakers are %s, as the control plane says", guard.name, mode)
