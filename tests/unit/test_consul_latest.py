"""An answer that is used again is the one that would be made: whatever was written and asked in between."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gapless.api.consul.app import ConsulApi
from gapless.api.consul.health import HealthEndpoints
from gapless.api.consul.latest import Latest
from gapless.api.consul.watches import Watches
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import NotRegistered
from gapless.discovery.catalog.values import Check, Definition, Instance, Node
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld
from tests.unit.consul_kit import Client

NUMBERS = st.integers(0, 2)
WRITES = st.one_of(
    st.tuples(st.just("register"), NUMBERS, st.sampled_from(["v1", "v2"])),
    st.tuples(st.just("deregister"), NUMBERS, st.just("")),
    st.tuples(st.sampled_from(["passing", "critical"]), NUMBERS, st.sampled_from(["", "fine", "odd"])),
    st.tuples(st.just("node"), NUMBERS, st.just("")),
)
QUERIES = st.sampled_from([
    "web", "web?passing", "web?passing=false", "web?tag=v1", "web?tag=v2&passing", "web?near=_agent",
    'web?filter=Service.ID=="web-1"', "web?index=0&wait=1s", "db", "db?pretty",
])  # fmt: skip


@given(st.lists(st.one_of(WRITES, QUERIES), max_size=25))
def test_an_answer_used_again_is_the_one_that_would_be_made(steps: list[tuple[str, int, str] | str]) -> None:
    asyncio.run(compared(steps))


async def compared(steps: list[tuple[str, int, str] | str]) -> None:
    world = FakeWorld()
    catalog = Catalog(MemoryStore(world), world, name="here")
    await catalog.start()
    again = endpoints(catalog, world)
    for step in steps:
        if isinstance(step, str):
            path = f"/v1/health/service/{step}"
            one, other = await again.get(path), await endpoints(catalog, world).get(path)
            assert (one.status, one.body, one.headers) == (other.status, other.body, other.headers)
        else:
            await write(catalog, *step)
    await catalog.aclose()


def endpoints(catalog: Catalog, world: FakeWorld) -> Client:
    return Client(ConsulApi(HealthEndpoints(catalog, Watches(world)).routes()))


async def write(catalog: Catalog, verb: str, number: int, text: str) -> None:
    name = f"web-{number}"
    if verb == "register":
        check = Check(node="", id="", definition=Definition(ttl="10s"))
        await catalog.register(Instance(service="web", id=name, tags=(text,)), [check])
    elif verb == "node":
        await catalog.put(Node(name="here", address=f"10.0.0.{number}"))
    else:
        try:
            await (
                catalog.deregister(name)
                if verb == "deregister"
                else catalog.update_check(f"service:{name}", verb, text)
            )
        except NotRegistered:
            return  # it was never there, or has gone


def test_it_is_made_once_for_those_who_ask_the_same() -> None:
    latest, made = Latest(), []
    for key in ("a", "a", "b", "b", "a"):
        assert latest.body(key, lambda key=key: made.append(key) or key.encode()) == key.encode()  # type: ignore[misc]
    assert made == ["a", "b", "a"]
