"""Whatever verbs, crashes and kills come in whatever order: what was acknowledged holds, and all obey it in the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.errors import GaplessError
from tests.unit.control_kit import ME
from tests.unit.test_configure import HALF, STAGED, Shopping, asked

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["set", "wrong", "stage", "bad stage", "back", "back to", "kill", "crash", "wait"]),
        st.integers(0, 9),
    ),
    max_size=8,
)
BAD = 1_000
"""A price from which on requests fail."""


class Story:
    """Plays steps, and knows what must be true."""

    def __init__(self) -> None:
        self.rig = Shopping(STAGED)
        self.rig.bad_prices = set(range(BAD, BAD + 10))
        self.accepted: dict[int, str] = {}
        """Prices by the numbers of revisions that were acknowledged."""
        self.deliberate = False
        """Somebody has gone back to a bad revision by its number: that is his to do."""

    async def play(self, steps: list[tuple[str, int]]) -> None:
        await self.rig.begin()
        for verb, number in steps:
            await self.step(verb, number)
            self.check()
        await self.come_to_rest()
        await self.rig.end()

    async def step(self, verb: str, number: int) -> None:
        plane = self.rig.plane
        match verb:
            case "set":
                await self.change(plane.config.set("web", {"price": str(number)}, [], ME))
            case "wrong":
                written = plane.records.config("web").newest
                await self.change(plane.config.set("web", {"price": "many"}, [], ME))
                assert plane.records.config("web").newest == written
            case "stage":
                await self.change(plane.config.set("web", {"price": str(100 + number)}, [], ME, weight=HALF))
            case "bad stage":
                await self.change(plane.config.set("web", {"price": str(BAD + number)}, [], ME, weight=HALF))
            case "back":
                await self.change(plane.config.rollback("web", 0, ME))
            case "back to":
                await self.change(plane.config.rollback("web", number, ME))
                if number and int(self.accepted.get(number, "0")) >= BAD:
                    self.deliberate = True
            case _:
                await self.befall(verb, number)

    async def befall(self, verb: str, number: int) -> None:
        if verb == "kill":
            await self.rig.kill()
            await self.rig.run(number / 2)
            await self.rig.up()
            await self.listen()
        elif verb == "crash" and (live := self.rig.live()):
            name = live[number % len(live)].id
            self.rig.fleet.crash(name)
            if talker := self.rig.talkers.pop(name, None):
                talker.following.cancel()
            await self.rig.run(2.0)
            await self.rig.join()
        else:
            await self.rig.run(number)

    async def change(self, act: Any) -> None:
        with suppress(GaplessError):  # whether it may be done is the product's to say; what then holds is ours
            await asked(self.rig, act)
        for each, _ in self.rig.plane.config.history("web"):
            price = str(each.values.get("price"))
            assert self.accepted.setdefault(each.number, price) == price, "a revision never changes"

    async def listen(self) -> None:
        for talker in self.rig.talkers.values():
            talker.following.cancel()
            talker.following = asyncio.ensure_future(talker.follower.follow())
        await self.rig.run(0.5)

    def check(self) -> None:
        """At any moment: no price that nobody acknowledged, and a bad one only where it is tried."""
        stage = self.rig.plane.records.config("web").stage
        for name, talker in self.rig.talkers.items():
            price = talker.settings.latest.price
            assert price in {3, *map(int, self.accepted.values())}
            assert price < BAD or self.deliberate or (stage and name in stage.members)

    async def come_to_rest(self) -> None:
        for _ in range(60):
            config = self.rig.plane.records.config("web")
            if config.staging is None:
                break
            await self.rig.run(2.0)
        config = self.rig.plane.records.config("web")
        assert config.staging is None
        await self.rig.join()
        await self.rig.run(1.0)
        wanted = int(self.accepted[config.current]) if config.current else 3
        assert self.rig.prices() == [wanted] * len(self.rig.talkers)
        assert config.current not in config.abandoned
        assert wanted < BAD or self.deliberate


@settings(deadline=None)
@given(STEPS)
def test_what_was_acknowledged_holds_and_all_obey_in_the_end(steps: list[tuple[str, int]]) -> None:
    asyncio.run(Story().play(steps))
