"""Breakers that the control plane holds open in an instance, until a moment at most."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gapless.core.model import RouteTable
from gapless.core.model.alert import Forced
from gapless.core.protect import BreakerRule, Protect
from gapless.resilience.breaker import breaker
from gapless.resilience.errors import BreakerOpen
from gapless.resilience.guards import Guards
from gapless.service.forcing import LONGEST_S, Forcing
from gapless.testing import FakeWorld
from tests.unit.test_protection import told

PROTECT = Protect(breaker=BreakerRule())


class Side:
    """One guard with a breaker, one without, and who forces them."""

    def __init__(self) -> None:
        self.world = FakeWorld()
        self.guards = Guards(self.world)
        self.mail = self.guards.define("mail", breaker())
        self.guards.define("bare")
        self.forcing = Forcing(
            "orders", lambda name: list(self.guards) if not name else [self.guards.get(name)], self.world
        )

    def hear(self, *forced: Forced) -> None:
        (table,) = told(PROTECT).services
        self.forcing.follow(RouteTable(version=2, services=(replace(table, forced=forced),)))

    def forced(self, guard: str = "", for_s: float = 60.0) -> Forced:
        return Forced(service="orders", guard=guard, mode="open", until_at=self.world.time() + for_s)

    async def is_open(self) -> bool:
        async def send() -> None:
            return

        try:
            await self.mail(send)()
        except BreakerOpen:
            return True
        return False


async def test_it_is_open_until_the_control_plane_takes_it_back() -> None:
    side = Side()
    side.hear(forced := side.forced())
    side.hear(forced)
    assert await side.is_open()
    side.hear()
    assert not await side.is_open()
    assert side.world.pending == 0


@pytest.mark.parametrize("for_s", [60.0, 1e9])
async def test_it_ends_by_itself_when_nobody_speaks_any_more(for_s: float) -> None:
    side = Side()
    side.hear(side.forced("mail", for_s))
    assert await side.is_open()
    await side.world.advance(min(for_s, LONGEST_S) + 1)
    assert not await side.is_open()


async def test_what_is_over_and_what_is_another_s_is_not_done() -> None:
    side = Side()
    side.hear(side.forced(for_s=-1.0))
    side.forcing.follow(told(PROTECT, service="others"))
    assert not await side.is_open()
