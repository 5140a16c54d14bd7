"""The registry on a store: what is written is read, indexes only rise, and a change wakes whom it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gapless.core.ports import Listing, Store, Update
from gapless.discovery.catalog import keys, topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import Invalid, NotRegistered
from gapless.discovery.catalog.values import Check, Definition, Instance, Node, Status, cut
from gapless.discovery.catalog.view import View
from gapless.discovery.catalog.writes import CHUNK, witness
from gapless.discovery.topics import Topics
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

TTL = Check(node="", id="", definition=Definition(ttl="10s"))


def instance(number: int, service: str = "orders", *tags: str) -> Instance:
    return Instance(service=service, id=f"{service}-{number}", port=8000 + number, tags=tags)


@asynccontextmanager
async def opened(store: Store | None = None, world: FakeWorld | None = None) -> AsyncIterator[Catalog]:
    world = world or FakeWorld()
    catalog = Catalog(store or MemoryStore(world), world, name="here")
    await catalog.start()
    yield catalog
    await catalog.aclose()


def test_names_stay_in_their_place() -> None:
    for name in ("a/b", "%2F", "a%/b\0", "ç", "%252F"):
        assert keys.place_of(keys.instance_key(name, name, name)) == keys.Place("service", (name,) * 3)
        assert keys.instance_key(name, "n", "i").count("/") == 4


def test_output_is_cut_between_characters() -> None:
    assert cut("ç" * 3000) == "ç" * 2048
    assert cut("short") == "short"


async def test_the_agents_node_is_there_and_well() -> None:
    async with opened() as catalog:
        (node,) = catalog.nodes()
        assert (node.node.name, node.node.datacenter) == ("here", "dc1")
        (check,) = catalog.checks_on("here")
        assert (check.check.id, check.check.status) == ("serfHealth", "passing")


async def test_a_second_start_writes_nothing() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(store, world) as catalog:
        node = catalog.node("here")
    before = (await store.list("")).revision
    async with opened(store, world) as again:
        assert again.node("here") == node
    assert (await store.list("")).revision == before


async def test_registered_is_found_with_its_node_and_checks() -> None:
    async with opened() as catalog:
        await catalog.register(instance(1, "orders", "v1"), [TTL])
        (found,) = catalog.instances("orders")
        assert found.instance.port == 8001
        assert found.address == "127.0.0.1"
        assert found.status == "critical"
        assert [row.check.id for row in found.checks] == ["serfHealth", "service:orders-1"]
        assert catalog.services() == {"orders": ("v1",)}
        assert catalog.instances("orders", passing=True) == ()
        await catalog.update_check("service:orders-1", "passing", "well")
        assert catalog.instances("orders", passing=True)[0].status == "passing"


async def test_registering_the_same_again_writes_nothing_and_keeps_the_status() -> None:
    async with opened() as catalog:
        await catalog.register(instance(1), [TTL])
        await catalog.update_check("service:orders-1", "passing", "well")
        before = catalog.index(topic.health("orders"))
        await catalog.register(instance(1), [TTL])
        assert catalog.index(topic.health("orders")) == before
        await catalog.register(instance(1, "orders", "new"), [TTL])
        (found,) = catalog.instances("orders")
        assert found.status == "passing"
        assert found.checks[1].check.service_tags == ("new",)
        assert found.row.created < found.row.revision


async def test_an_id_that_moves_to_another_service_leaves_the_first() -> None:
    async with opened() as catalog:
        await catalog.register(Instance(service="a", id="i"), [TTL])
        before = catalog.index(topic.health("a"))
        await catalog.register(Instance(service="b", id="i"))
        assert catalog.instances("a") == ()
        assert catalog.index(topic.health("a")) > before
        (found,) = catalog.instances("b")
        assert found.checks[1].check.service == "b"


async def test_several_checks_are_numbered_and_replaced_when_asked() -> None:
    async with opened() as catalog:
        await catalog.register(instance(1), [TTL, TTL])
        assert [row.check.id for row in catalog.checks_of("orders")] == ["service:orders-1:1", "service:orders-1:2"]
        await catalog.register(instance(1), [TTL])
        assert len(catalog.checks_of("orders")) == 3
        await catalog.register(instance(1), [TTL], replace=True)
        assert [row.check.id for row in catalog.checks_of("orders")] == ["service:orders-1"]


async def test_heartbeats_are_not_written_but_what_they_say_is_shown() -> None:
    async with opened() as catalog:
        await catalog.register(instance(1), [TTL])
        await catalog.update_check("service:orders-1", "passing", "well")
        before = catalog.index(topic.CHECKS)
        await catalog.update_check("service:orders-1", "passing", "very well")
        assert catalog.index(topic.CHECKS) == before
        row = catalog.check("service:orders-1")
        assert row is not None
        assert row.check.output == "very well"
        assert b"very well" in row.raw


async def test_maintenance_takes_out_of_rotation_and_back() -> None:
    async with opened() as catalog:
        await catalog.register(instance(1))
        await catalog.maintain("orders-1", True, "repair")
        assert catalog.instances("orders", passing=True) == ()
        await catalog.register(instance(1), replace=True)
        assert catalog.instances("orders", passing=True) == ()
        await catalog.maintain("orders-1", False)
        await catalog.maintain_node(True)
        assert catalog.instances("orders", passing=True) == ()
        await catalog.maintain_node(False)
        assert len(catalog.instances("orders", passing=True)) == 1


async def test_a_node_goes_with_all_that_is_on_it() -> None:
    async with opened() as catalog:
        for number in range(CHUNK * 2):
            await catalog.put(Node(name="far", address="10.0.0.1"), instance(number))
        await catalog.put(Node(name="far", address="10.0.0.1"), None, [Check(node="", id="ping", status="passing")])
        assert len(catalog.instances("orders")) == CHUNK * 2
        await catalog.remove("far")
        assert catalog.instances("orders") == ()
        assert catalog.node("far") is None
        assert catalog.checks_on("far") == ()


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (Definition(), "TTL must be > 0 for TTL checks"),
        (Definition(ttl="-1s"), "TTL must be > 0 for TTL checks"),
        (Definition(http="http://x/"), "Interval must be > 0"),
        (Definition(ttl="1s", interval="1s"), "cannot both be specified"),
        (Definition(ttl="soon"), "invalid duration"),
    ],
)
async def test_a_check_that_cannot_be_is_refused(definition: Definition, words: str) -> None:
    async with opened() as catalog:
        with pytest.raises(Invalid, match=words):
            await catalog.register(instance(1), [Check(node="", id="", definition=definition)])
        assert catalog.services() == {}


async def test_what_is_not_registered_is_said() -> None:
    async with opened() as catalog:
        with pytest.raises(NotRegistered, match=r'Unknown check ID "x"\. Ensure that the check ID is passed'):
            await catalog.update_check("x", "passing", "")
        with pytest.raises(NotRegistered, match="Unknown service ID"):
            await catalog.deregister("x")
        with pytest.raises(NotRegistered, match="does not exist"):
            await catalog.register_check(Check(node="", id="", name="c", service_id="x", definition=TTL.definition))
        with pytest.raises(Invalid, match="Missing service name"):
            await catalog.register(Instance(service=""))
        await catalog.remove("nowhere")
        await catalog.remove("here", instance="x")
        await catalog.remove("here", check="x")


async def test_a_watcher_wakes_for_its_own_service_only() -> None:
    world = FakeWorld()
    async with opened(world=world) as catalog:
        await catalog.register(instance(1, "a"))
        waits = {
            name: asyncio.create_task(catalog.wait(topic.health(name), catalog.index(topic.health(name)), 60))
            for name in ("a", "b", "absent")
        }
        names = asyncio.create_task(catalog.wait(topic.SERVICES, catalog.index(topic.SERVICES), 60))
        await world.settle()
        await catalog.register(instance(2, "a"))
        await world.settle()
        assert [name for name, wait in waits.items() if wait.done()] == ["a"]
        assert not names.done()
        await catalog.register(instance(1, "b"))
        await world.settle()
        assert waits["b"].result() == catalog.index(topic.health("b"))
        assert names.done()
        await world.advance(61)
        assert waits["absent"].result() == 1
        assert catalog.topics.waiting == 0


async def test_writers_that_overtake_each_other_all_succeed() -> None:
    async with opened() as catalog:
        await asyncio.gather(*(catalog.register(instance(1, "orders", f"t{n}")) for n in range(20)))
        await asyncio.gather(*(catalog.register(instance(n)) for n in range(20)), catalog.deregister("orders-1"))
        assert len(catalog.instances("orders")) >= 19


async def test_what_goes_with_a_lease_leaves_its_traces() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(store, world) as catalog:
        lease = await store.grant(5)
        await store.put(keys.instance_key("orders", "here", "i"), b'{"Service":"orders","ID":"i"}', lease=lease)
        await world.settle()
        assert len(catalog.instances("orders")) == 1
        await world.advance(6)
        assert catalog.instances("orders") == ()
        index = catalog.index(topic.health("orders"))
    async with opened(store, world) as again:
        assert again.index(topic.health("orders")) >= index


async def test_a_row_that_cannot_be_read_is_said_and_counts_as_absent(caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(store, world) as catalog:
        await store.put(keys.instance_key("orders", "here", "i"), b"[]")
        await store.put("catalog/other", b"x")
        await world.settle()
        assert catalog.instances("orders") == ()
        assert "cannot be read" in caplog.text


async def test_a_row_that_cannot_be_read_is_written_over() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(store, world) as catalog:
        await store.put(keys.instance_key("orders", "here", "orders-1"), b"[]")
        await world.settle()
        await catalog.register(instance(1))
        assert len(catalog.instances("orders")) == 1


async def test_a_weight_goes_with_an_instance_that_a_lease_ends() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(store, world) as catalog:
        catalog.lease = await store.grant(5)
        await catalog.register(instance(1))
        await catalog.write(lambda view: witness(view, "here", "orders-1", 0.5, "seen", "here"))
        await world.advance(6)
        assert catalog.view.untraced == set()
        assert (await store.list(keys.WEIGHTS)).entries == ()
        assert catalog.instances("orders") == ()


async def test_many_traces_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapless.discovery.catalog.catalog.TRACES", 300)
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(store, world) as catalog:
        for number in range(400):
            await catalog.register(instance(1, f"s{number}"))
            await catalog.deregister(f"s{number}-1")
        await world.settle()
        assert len(catalog.view.traces) <= 300
        indexes = {number: catalog.index(topic.health(f"s{number}")) for number in range(400)}
    async with opened(store, world) as again:
        assert all(again.index(topic.health(f"s{number}")) >= index for number, index in indexes.items())


def everything(view: View) -> dict[str, object]:
    """All that a view shows, by every way in."""
    return {
        "nodes": view.nodes,
        "services": {name: list(view.instances(name)) for name in sorted(view.services)},
        "tags": {name: set(view.tags(name)) for name in view.services},
        "on": dict(view.on),
        "sunk": dict(view.sunk),
        "checks": dict(view.checks),
    }


def naive(listing: Listing) -> dict[str, object]:
    """The same from the rows, row by row."""
    view = View(Topics())
    view.reset(listing)
    return everything(view)


def shown(view: View, of: topic.Topic) -> object:
    """What somebody who waits for the topic would be answered."""
    kind, name = of[0], of[-1]
    rows = sorted(
        (row for rows in view.checks.values() for row in rows.values()), key=lambda row: (row.check.node, row.check.id)
    )
    readers: dict[str, Callable[[], object]] = {
        "services": lambda: {service: set(view.tags(service)) for service in view.services},
        "nodes": lambda: dict(view.nodes),
        "checks": lambda: {node: dict(rows) for node, rows in view.checks.items()},
        "state": lambda: [row for row in rows if row.check.status == name],
        "health": lambda: list(view.instances(name)),
        "instances": lambda: [(found.node, found.row) for found in view.instances(name)],
        "checks-of": lambda: [row for row in rows if row.check.service == name],
        "node": lambda: (view.nodes.get(name), dict(view.on.get(name, {}))),
        "checks-on": lambda: dict(view.checks.get(name, {})),
    }
    return readers[kind]()


NAMES = ("a", "b", "c")
TOPICS: tuple[topic.Topic, ...] = (
    topic.SERVICES,
    topic.NODES,
    *topic.STATES,
    *(
        kind(name)
        for kind in (topic.health, topic.instances, topic.checks_of, topic.node, topic.checks_on)
        for name in NAMES
    ),
    topic.node("here"),
    topic.checks_on("here"),
)


class Histories(RuleBasedStateMachine):
    """Any writes in any order, with restarts: the view is what the rows say, an index rises exactly when what it is
    about has changed, and never goes back."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.world = FakeWorld()
        self.store = MemoryStore(self.world)
        self.indexes = dict.fromkeys(TOPICS, 0)
        self.loop.run_until_complete(self.open())

    async def open(self) -> None:
        self.catalog = Catalog(self.store, self.world, name="here")
        await self.catalog.start()
        self.remember()

    def remember(self) -> None:
        for of in TOPICS:
            assert self.catalog.topics.index(of) >= self.indexes[of], of
            self.indexes[of] = self.catalog.topics.index(of)
        self.before = {of: shown(self.catalog.view, of) for of in TOPICS}

    def do(self, *writes: object) -> None:
        async def all_of_them() -> None:
            for write in writes:
                try:
                    await write  # type: ignore[misc]
                except (NotRegistered, Invalid):
                    continue

        self.loop.run_until_complete(all_of_them())
        for of in TOPICS:
            moved = self.catalog.topics.index(of) > self.indexes[of]
            changed = shown(self.catalog.view, of) != self.before[of]
            assert moved == changed, (of, moved, changed)
        self.remember()

    names = st.sampled_from(NAMES)
    statuses = st.sampled_from(list(Status))
    tags = st.lists(names, max_size=2, unique=True).map(tuple)

    @rule(service=names, identity=names, tags=tags, checks=st.integers(0, 2), replace=st.booleans())
    def register(self, service: str, identity: str, tags: tuple[str, ...], checks: int, replace: bool) -> None:
        made = Instance(service=service, id=identity, tags=tags)
        self.do(self.catalog.register(made, [TTL] * checks, replace=replace))

    @rule(identity=names)
    def deregister(self, identity: str) -> None:
        self.do(self.catalog.deregister(identity))

    @rule(node=names, service=names, identity=names, status=statuses, address=names, bare=st.booleans())
    def put(self, node: str, service: str, identity: str, status: str, address: str, bare: bool) -> None:
        check = Check(node="", id=identity, status=status, service_id="" if bare else identity)
        made = None if bare else Instance(service=service, id=identity)
        self.do(self.catalog.put(Node(name=node, address=address), made, [check]))

    @rule(node=st.sampled_from((*NAMES, "here")), identity=names, check=st.booleans())
    def remove(self, node: str, identity: str, check: bool) -> None:
        self.do(self.catalog.remove(node, check=identity) if check else self.catalog.remove(node, instance=identity))

    @rule(node=names)
    def remove_node(self, node: str) -> None:
        self.do(self.catalog.remove(node))

    @rule(identity=names, status=statuses)
    def update(self, identity: str, status: str) -> None:
        self.do(self.catalog.update_check(f"service:{identity}", status, ""))

    @rule(identity=names, on=st.booleans())
    def maintain(self, identity: str, on: bool) -> None:
        self.do(self.catalog.maintain(identity, on))

    @rule(identity=names, share=st.sampled_from((0.0, 0.25, 0.5, 1.0)))
    def witness(self, identity: str, share: float) -> None:
        self.do(self.catalog.write(lambda view: witness(view, "here", identity, share, "seen", "here")))

    @rule(on=st.booleans())
    def maintain_node(self, on: bool) -> None:
        self.do(self.catalog.maintain_node(on))

    @rule(keep=st.integers(0, 3))
    def thin(self, keep: int) -> None:
        self.do(self.catalog.thin(keep))
        assert len(self.catalog.view.traces) <= keep

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.catalog.aclose())
        self.loop.run_until_complete(self.open())

    @invariant()
    def the_view_is_what_the_rows_say(self) -> None:
        listing = self.loop.run_until_complete(self.store.list(keys.PREFIX))
        assert everything(self.catalog.view) == naive(listing)
        assert self.catalog.view.untraced == set()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.catalog.aclose())
            self.loop.run_until_complete(self.store.close())
            self.loop.close()


Histories.TestCase.settings = settings(stateful_step_count=25, deadline=None)
TestHistories = Histories.TestCase


def test_a_listing_that_lacks_a_row_removes_it() -> None:
    topics = Topics()
    view = View(topics)
    view.apply((Update(key=keys.instance_key("a", "n", "i"), value=b'{"Service":"a","ID":"i"}', revision=3),))
    assert list(view.services) == ["a"]
    view.reset(Listing(entries=(), revision=9))
    assert view.services == {}
    assert topics.index(topic.health("a")) == 9
