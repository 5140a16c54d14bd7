"""Who leads when several control planes share a store: the rules, and candidates on a store with pretended time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.control.election import Election
from gapless.control.fence import FencedStore, Leadership
from gapless.control.home import Home, check_home, claim_home
from gapless.control.leader import (
    HOLD_S,
    LEASE_S,
    LOOK_EVERY_S,
    RENEW_EVERY_S,
    Candidate,
    Renew,
    StepDown,
    Term,
    Wait,
    holds,
    lead,
)
from gapless.core.errors import ConfigError, Conflict, NotLeader, StoreLocked
from gapless.core.ports import Put
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

HERE = Home(system="shop", machine="one/1", state="/s")


def candidate(name: str) -> Candidate:
    return Candidate(id=name, machine="here/1", pid=1)


class Rig:
    """Candidates on one store. `start` lets one stand for election and then hold what it has won."""

    def __init__(self) -> None:
        self.world = FakeWorld()
        self.store = MemoryStore(self.world)
        self.terms: dict[str, list[Leadership | None]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.elections: dict[str, Election] = {}

    def start(self, name: str) -> None:
        self.elections[name] = Election(self.store, candidate(name), self.world)
        self.terms[name] = []
        self.tasks[name] = asyncio.create_task(self._stand(name))

    async def _stand(self, name: str) -> None:
        election = self.elections[name]
        while True:
            won = await election.win()
            self.terms[name].append(won)
            if won is None:
                return
            await election.hold(won)

    def kill(self, name: str) -> None:
        self.tasks[name].cancel()

    def leading(self) -> list[str]:
        """Those who believe that they may act."""
        return [name for name, terms in self.terms.items() if terms and terms[-1] and believes(terms[-1])]


def believes(leadership: Leadership) -> bool:
    try:
        leadership.require()
    except NotLeader:
        return False
    return True


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    one = Rig()
    try:
        yield one
    finally:
        for task in one.tasks.values():
            task.cancel()
        await asyncio.gather(*one.tasks.values(), return_exceptions=True)
        await one.store.close()


@given(st.floats(0, 1e6), st.floats(0, 100), st.booleans())
def test_a_leader_renews_in_time_and_never_acts_beyond_his_lease(held_at: float, since: float, failed: bool) -> None:
    term = Term(revision=1, held_at=held_at)
    now = held_at + since
    act = lead(term, now, failed=failed)
    assert isinstance(act, StepDown) == (not holds(term, now))
    assert now - held_at < LEASE_S or isinstance(act, StepDown)
    if isinstance(act, Wait):
        # After any wait he either still holds it with room for a renewal, or finds out in time that he does not.
        assert 0 < act.seconds <= RENEW_EVERY_S
        assert since + act.seconds < LEASE_S
    if isinstance(act, Renew):
        assert RENEW_EVERY_S <= since < HOLD_S + 1e-6


async def test_one_leads_and_the_other_follows_when_it_is_killed() -> None:
    async with rig() as one:
        one.start("a")
        await one.world.advance(0.1)
        one.start("b")
        for _ in range(20):
            await one.world.advance(1.0)
            assert one.leading() == ["a"]
        assert [c.id for c in await one.elections["b"].standbys()] == ["b"]
        one.kill("a")
        await one.world.advance(LEASE_S + LOOK_EVERY_S)
        assert one.leading()[-1] == "b"
        assert await one.elections["b"].standbys() == ()


async def test_of_many_at_once_one_is_elected() -> None:
    async with rig() as one:
        for name in "abcdef":
            one.start(name)
        for _ in range(6):
            await one.world.advance(1.0)
            assert len(one.leading()) == 1
            one.kill(one.leading()[0])
            one.terms.pop(one.leading()[0])
            await one.world.advance(LEASE_S + LOOK_EVERY_S)


async def test_who_resigns_is_followed_at_once() -> None:
    async with rig() as one:
        one.start("a")
        await one.world.advance(0.1)
        one.start("b")
        await one.world.advance(1.0)
        one.kill("a")
        await one.elections["a"].withdraw()
        await one.world.advance(LOOK_EVERY_S)
        assert "b" in one.leading()


async def test_who_could_not_give_up_its_term_takes_it_up_again_at_once() -> None:
    async with rig() as one:
        one.start("a")
        await one.world.advance(0.1)
        (first,) = one.terms["a"]
        assert first is not None
        one.kill("a")
        again = Election(one.store, candidate("a"), one.world)
        second = await again.win()
        assert second is not None
        assert second.term.revision > first.term.revision
        with pytest.raises(NotLeader):
            await FencedStore(one.store, first).put("k", b"late")
        await again.withdraw()


async def test_standbys_are_sent_home_and_none_of_them_follows() -> None:
    async with rig() as one:
        one.start("a")
        await one.world.advance(0.1)
        one.start("b")
        one.start("c")
        await one.world.advance(1.0)
        await one.elections["a"].dismiss_standbys()
        one.kill("a")
        await one.elections["a"].withdraw()  # before they have looked
        await one.world.advance(2 * LEASE_S)
        assert one.terms["b"] == one.terms["c"] == [None]


async def test_a_deposed_leader_writes_nothing() -> None:
    async with rig() as one:
        one.start("a")
        await one.world.advance(0.1)
        (late,) = one.terms["a"]
        assert late is not None
        fenced = FencedStore(one.store, late)
        first = await fenced.put("k", b"1")
        with pytest.raises(Conflict) as conflict:
            await fenced.put("k", b"x", expect=first + 7)
        assert conflict.value.key == "k"
        one.kill("a")
        one.start("b")
        await one.world.advance(LEASE_S + LOOK_EVERY_S)
        late.held(one.world.now())  # as if its clock had stood still: only the store can refuse now
        for write in (fenced.put("k", b"2"), fenced.delete("k"), fenced.transact(Put(key="l", value=b""))):
            with pytest.raises(NotLeader, match="another one leads"):
                await write
        assert late.lost.is_set()
        entry = await fenced.get("k")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"1", first)


async def test_a_leader_who_was_stopped_knows_by_his_own_clock() -> None:
    async with rig() as one:
        one.start("a")
        await one.world.advance(0.1)
        (term,) = one.terms["a"]
        assert term is not None
        one.world.stall(HOLD_S)
        with pytest.raises(NotLeader, match="could not be renewed"):
            await FencedStore(one.store, term).put("k", b"1")
        assert await one.store.get("k") is None


async def test_a_system_lives_in_one_place_until_it_is_moved() -> None:
    async with rig() as one:
        there = Home(system="shop", machine="two/2", state="/s")
        await check_home(one.store, HERE, move=False)
        await claim_home(one.store, HERE, move=False)
        await check_home(one.store, HERE, move=False)
        with pytest.raises(ConfigError, match="shop lives at one:/s"):
            await check_home(one.store, there, move=False)
        with pytest.raises(ConfigError, match="come into this store first"):
            await claim_home(one.store, there, move=False)
        with pytest.raises(ConfigError, match="holds the system 'shop'"):
            await check_home(one.store, Home(system="blog", machine="one/1", state="/s"), move=True)
        one.start("a")
        await one.world.advance(0.1)
        with pytest.raises(StoreLocked, match="leads there"):
            await check_home(one.store, there, move=True)
        one.kill("a")
        await one.world.advance(LEASE_S)
        await check_home(one.store, there, move=True)
        await claim_home(one.store, there, move=True)
        with pytest.raises(ConfigError, match="lives at two"):
            await check_home(one.store, HERE, move=False)
