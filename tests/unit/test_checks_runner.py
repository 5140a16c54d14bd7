"""Checks over a registry in memory, in a world where time passes only when told: what is asked, and what follows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import StoreFull
from gapless.core.ports import Op
from gapless.discovery.catalog import topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import NotRegistered
from gapless.discovery.catalog.values import Check, Definition, Instance, Status
from gapless.discovery.checks.agenda import Agenda
from gapless.discovery.checks.ask import Asker, Result, place_of, timeout_s
from gapless.discovery.checks.crew import Crew
from gapless.discovery.checks.runner import ASKING, Runner
from gapless.discovery.checks.streak import FRESH, Streak, verdict
from gapless.discovery.lapse import GRACE_S, RETRY_S
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

HTTP = Definition(http="http://a/", interval="10s")
TTL = Definition(ttl="10s")


class Rig:
    """A registry whose instances answer as `answers` says: by URL or TCP address; nobody else answers."""

    def __init__(self, world: FakeWorld, store: MemoryStore) -> None:
        self.world, self.store = world, store
        self.answers: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.latency_s = 0.0
        self.catalog = Catalog(store, world, name="here")
        self.runner = Runner(self.catalog, world, self.ask)

    async def ask(self, definition: Definition) -> Result:
        place = definition.http or definition.tcp
        self.asked[place] += 1
        if self.latency_s:
            await self.world.sleep(self.latency_s)
        return Result(self.answers.get(place, Status.CRITICAL), f"asked {place}")

    async def register(self, name: str, *definitions: Definition, port: int = 0, status: str = Status.CRITICAL) -> None:
        checks = [Check(node="", id="", status=status, definition=definition) for definition in definitions]
        await self.catalog.register(Instance(service="s", id=name, port=port), checks)

    def status(self, name: str) -> str:
        row = self.catalog.check(f"service:{name}")
        return row.check.status if row else "gone"


@asynccontextmanager
async def opened(world: FakeWorld | None = None, store: MemoryStore | None = None) -> AsyncIterator[Rig]:
    world = world or FakeWorld()
    rig = Rig(world, store or MemoryStore(world))
    await rig.catalog.start()
    await rig.runner.start()
    yield rig
    await rig.runner.aclose()
    await rig.catalog.aclose()


async def test_a_new_check_is_asked_at_once_and_then_at_intervals() -> None:
    async with opened() as rig:
        rig.answers["http://a/"] = Status.PASSING
        await rig.register("a", HTTP)
        await rig.world.advance(0.1)
        assert rig.status("a") == "passing"
        await rig.world.advance(100)
        assert rig.asked["http://a/"] in (10, 11)
        rig.answers.clear()
        await rig.world.advance(11)
        assert rig.status("a") == "critical"
        await rig.catalog.deregister("a")
        before = rig.asked.total()
        await rig.world.advance(100)
        assert rig.asked.total() == before
        assert rig.world.pending == 0


async def test_a_check_that_takes_long_is_not_asked_twice_at_once() -> None:
    async with opened() as rig:
        rig.latency_s = 25
        await rig.register("a", HTTP)
        await rig.world.advance(100)
        assert rig.asked["http://a/"] == 4


async def test_a_changed_definition_begins_anew() -> None:
    async with opened() as rig:
        await rig.register("a", HTTP)
        await rig.world.advance(1)
        rig.answers["b:1"] = Status.PASSING
        await rig.register("a", Definition(tcp="b:1", interval="1s"))
        await rig.world.advance(1)
        assert rig.asked["b:1"] >= 1
        assert rig.status("a") == "passing"


async def test_it_may_take_several_in_a_row() -> None:
    async with opened() as rig:
        rig.answers["http://a/"] = Status.PASSING
        patient = Definition(http="http://a/", interval="1s", success_before_passing=2, failures_before_critical=3)
        await rig.register("a", patient)
        await rig.world.advance(0.1)
        assert rig.status("a") == "critical"
        await rig.world.advance(1.2)
        assert rig.status("a") == "passing"
        rig.answers.clear()
        await rig.world.advance(2.2)
        assert rig.status("a") == "passing"
        await rig.world.advance(1.2)
        assert rig.status("a") == "critical"


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.lists(st.sampled_from(list(Status)), max_size=30))
def test_a_status_follows_enough_results_in_a_row(good: int, bad: int, warn: int, results: list[Status]) -> None:
    definition = Definition(success_before_passing=good, failures_before_critical=bad, failures_before_warning=warn)
    streak = FRESH
    for at, result in enumerate(results):
        streak = streak.after(result)
        failed = [other is Status.CRITICAL for other in results[: at + 1]]
        alike = next((n for n, other in enumerate(reversed(failed)) if other != failed[-1]), len(failed))
        assert streak == (Streak(bad=alike) if failed[-1] else Streak(good=alike))
        status = verdict(definition, streak, result)
        if result is Status.CRITICAL:
            assert (status == Status.CRITICAL) == (alike >= bad)
        else:
            assert status == (result if alike >= good else None)


async def test_a_lapsed_instance_that_answers_stays() -> None:
    async with opened() as rig:
        rig.answers["127.0.0.1:80"] = Status.PASSING
        await rig.register("a", TTL, port=80)
        await rig.runner.heard("service:a", "passing", "well")
        index = rig.catalog.index(topic.health("s"))
        await rig.world.advance(35)
        assert rig.asked["127.0.0.1:80"] == 3
        assert rig.status("a") == "passing"
        assert rig.catalog.index(topic.health("s")) == index


async def test_a_lapsed_instance_that_does_not_answer_is_critical_at_once_and_welcome_again() -> None:
    async with opened() as rig:
        await rig.register("a", TTL, port=80)
        await rig.runner.heard("service:a", "passing", "")
        await rig.world.advance(9.99)
        assert rig.status("a") == "passing"
        await rig.world.advance(0.01)
        assert rig.status("a") == "critical"
        rig.answers["127.0.0.1:80"] = Status.PASSING
        await rig.world.advance(RETRY_S)
        assert rig.status("a") == "passing"


async def test_the_reverse_heartbeat_goes_the_way_of_its_own_checks() -> None:
    async with opened() as rig:
        rig.answers["http://a/"] = Status.PASSING
        await rig.catalog.register(
            Instance(service="s", id="a", port=80),
            [Check(node="", id="t", definition=TTL), Check(node="", id="h", definition=HTTP)],
        )
        await rig.runner.heard("t", "passing", "")
        await rig.world.advance(11)
        assert "127.0.0.1:80" not in rig.asked


async def test_what_cannot_be_asked_is_critical_when_it_lapses() -> None:
    async with opened() as rig:
        await rig.register("a", TTL)
        await rig.runner.heard("service:a", "passing", "")
        await rig.world.advance(10)
        assert rig.status("a") == "critical"
        await rig.runner.heard("service:a", "warning", "")
        assert rig.status("a") == "warning"
        await rig.runner.heard("service:a", "critical", "by itself")
        await rig.world.advance(100)
        row = rig.catalog.check("service:a")
        assert row is not None
        assert row.check.output == "by itself"


async def test_a_heartbeat_is_not_written() -> None:
    async with opened() as rig:
        await rig.register("a", TTL, status=Status.PASSING)
        before = (await rig.store.list("")).revision
        for _ in range(100):
            await rig.world.advance(5)
            await rig.runner.heard("service:a", "passing", "still well")
        assert (await rig.store.list("")).revision == before
        with pytest.raises(NotRegistered):
            await rig.runner.heard("service:b", "passing", "")


async def test_after_a_restart_there_is_grace() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(world, store) as rig:
        await rig.register("a", TTL, status=Status.PASSING)
        await world.advance(9)
    await world.advance(100)
    async with opened(world, store) as rig:
        await world.advance(GRACE_S - 0.1)
        assert rig.status("a") == "passing"
        await world.advance(0.2)
        assert rig.status("a") == "critical"


async def test_when_all_lapse_at_once_nobody_is_evicted_while_none_answers() -> None:
    async with opened() as rig:
        for number in range(10):
            await rig.register(str(number), TTL, status=Status.PASSING, port=80 + number)
        await rig.world.advance(20)
        assert {rig.status(str(number)) for number in range(10)} == {"passing"}
        rig.answers["127.0.0.1:80"] = Status.PASSING
        await rig.world.advance(10)
        assert Counter(rig.status(str(number)) for number in range(10)) == {"passing": 1, "critical": 9}


async def test_what_is_long_critical_is_deregistered() -> None:
    async with opened() as rig:
        await rig.register("a", Definition(http="http://a/", interval="1s", deregister_after="5s"))
        rig.answers["http://a/"] = Status.PASSING
        await rig.world.advance(10)
        rig.answers.clear()
        await rig.world.advance(4.9)
        assert rig.status("a") == "critical"
        await rig.world.advance(1.3)
        assert rig.status("a") == "gone"
        assert rig.catalog.services() == {}


async def test_an_alias_follows_the_checks_of_another_instance() -> None:
    async with opened() as rig:
        await rig.register("a", TTL, status=Status.PASSING)
        await rig.register("b", Definition(alias_service="a"))
        await rig.world.advance(0)
        assert rig.status("b") == "passing"
        await rig.runner.heard("service:a", "critical", "")
        await rig.world.advance(0)
        assert rig.status("b") == "critical"
        await rig.catalog.deregister("a")
        await rig.world.advance(11)
        row = rig.catalog.check("service:b")
        assert row is not None
        assert row.check.output == "Service a could not be found on node here"


async def test_a_status_that_cannot_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as rig:
        await rig.register("a", TTL, status=Status.PASSING)

        async def full(*_: Op) -> int:
            raise StoreFull

        with monkeypatch.context() as patch:
            patch.setattr(rig.store, "transact", full)
            await rig.world.advance(11)
            assert rig.status("a") == "passing"
        await rig.world.advance(2)
        assert rig.status("a") == "critical"


async def test_thousands_of_checks_are_lines_not_tasks() -> None:
    async with opened() as rig:
        rig.latency_s = 5
        quiet = len(asyncio.all_tasks())
        await asyncio.gather(*(rig.register(str(n), HTTP) for n in range(1000)))
        await rig.world.advance(1)
        assert len(asyncio.all_tasks()) <= quiet + ASKING
        await rig.world.advance(30)
        assert rig.asked["http://a/"] >= 1000


async def test_a_crew_goes_on_when_work_fails(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        done.append(1 // number)

    crew = Crew(1)
    for number in (0, 1, 1):
        crew.take(lambda number=number: work(number))
    for _ in range(10):
        await asyncio.sleep(0)
    assert done == [1, 1]
    assert "could not be worked on" in caplog.text
    await crew.aclose()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 100)))), st.integers(0, 100))
def test_an_agenda_holds_one_moment_for_each(plans: list[tuple[str, int | None]], now: int) -> None:
    agenda, moments = Agenda(), {}
    for name, at in plans:
        if at is None:
            agenda.drop(name)
            moments.pop(name, None)
        else:
            agenda.plan(name, at)
            moments[name] = at
    assert len(agenda) == len(moments)
    assert agenda.due() == min(moments.values(), default=float("inf"))
    taken = agenda.take(now)
    assert sorted(taken) == sorted(name for name, at in moments.items() if at <= now)
    assert [moments[name] for name in taken] == sorted(moments[name] for name in taken)
    assert all(name not in agenda for name in taken)


async def test_commands_are_refused_unless_allowed() -> None:
    result = await Asker(FakeWorld())(Definition(args=("true",), interval="1s"))
    assert result.status == "critical"
    assert "not allowed" in result.output


@pytest.mark.parametrize("address", ["", "host", "host:x", ":80", "host:99999"])
def test_places_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        place_of(address)


def test_places_and_limits() -> None:
    assert place_of("[::1]:80") == ("::1", 80)
    assert timeout_s(Definition(tcp="a:1")) == 10
    assert timeout_s(Definition(args=("x",))) == 30
    assert timeout_s(Definition(http="x", timeout="250ms")) == 0.25
