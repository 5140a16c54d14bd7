"""What a check of a store is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from gapless.core.ports import Store, World
from gapless.testing.world import FakeWorld


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRig:
    """A store under test, the world that it lives in, and the shortest lease that it grants."""

    store: Store
    world: World
    ttl_s: float = 2.0

    async def pass_time(self, seconds: float) -> None:
        """Virtual seconds in a FakeWorld, real ones otherwise."""
        if isinstance(self.world, FakeWorld):
            await self.world.advance(seconds)
        else:
            await self.world.sleep(seconds)


StoreCheck = Callable[[StoreRig], Awaitable[None]]
MakeStore = Callable[[], AbstractAsyncContextManager[StoreRig]]
