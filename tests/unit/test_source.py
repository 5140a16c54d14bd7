"""Sources of instances: what their addresses say, what an agent is asked, and what its answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError, DiscoveryLost, GaplessError, Unavailable
from gapless.core.model import Address, Endpoint
from gapless.discovery.directory import DOUBT_S, Directory, table_of
from gapless.discovery.sources.cache import Cache
from gapless.discovery.sources.consul import agent_of
from gapless.discovery.sources.consul_health import EVERYTHING, Options, endpoints_of, next_index, target
from gapless.discovery.sources.source import Reporter, source_of, without_option
from gapless.service.callee import Callee
from gapless.testing import FakeWorld


def endpoint(port: int, **more: Any) -> Endpoint:
    return Endpoint(instance=f"i{port}", release="", address=Address(host="h", port=port), **more)


class Script:
    """A source that tells what it is told to: instances, or an error. With nothing left to tell it waits."""

    def __init__(self, *telling: tuple[Endpoint, ...] | Exception) -> None:
        self.telling = asyncio.Queue[tuple[Endpoint, ...] | Exception]()
        self.opened = 0
        self.closed = False
        for each in telling:
            self.telling.put_nowait(each)

    async def follow(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        self.opened += 1
        while True:
            told = await self.telling.get()
            if isinstance(told, Exception):
                raise told
            yield told

    def reporter(self) -> Reporter | None:
        return None

    async def aclose(self) -> None:
        self.closed = True


def known(directory: Directory) -> list[int]:
    table = directory.service("stock")
    return [each.address.port for each in table.endpoints] if table else []


@pytest.mark.parametrize("lost", [DiscoveryLost(), OSError("reset"), EOFError()])
async def test_what_is_known_stays_while_the_source_is_gone(lost: Exception) -> None:
    world = FakeWorld()
    source = Script((endpoint(1),), lost, lost, (endpoint(2),))
    directory = Directory(world, source=source)
    await directory.start("stock")
    await directory.start("stock")
    await world.settle()
    assert known(directory) == [1]
    await world.advance(5)
    assert known(directory) == [2]
    assert source.opened == 3
    await directory.aclose()
    assert source.closed
    assert world.pending == 0


async def test_what_is_wrong_with_the_source_is_told_to_whoever_finds_nobody() -> None:
    world = FakeWorld()
    source = Script(DiscoveryLost("consul://h:8500 does not answer: refused"))
    directory = Directory(world, source=source)
    call = asyncio.create_task(Callee("stock", directory, world).found(world.now() + 2))
    await world.advance(2)
    with pytest.raises(
        Unavailable, match=r"knows no instance of it \(consul://h:8500 does not answer: refused"
    ) as lost:
        await call
    assert "passes its checks" in lost.value.remedy
    source.telling.put_nowait((endpoint(1),))
    await world.advance(5)
    assert directory.trouble("stock") == ""
    await directory.aclose()


async def test_a_follower_that_breaks_is_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld()
    directory = Directory(world, source=Script(ZeroDivisionError("a mistake of ours")))
    await directory.start("stock")
    await world.settle()
    assert "discovery stock has ended" in caplog.text
    assert "a mistake of ours" in caplog.text
    await directory.aclose()


async def test_only_what_is_asked_for_is_followed() -> None:
    world = FakeWorld()
    source = Script()
    directory = Directory(world, source=source)
    await directory.start()
    await world.settle()
    assert source.opened == 0
    await directory.start("stock", "payment")
    await world.settle()
    assert source.opened == 2
    await directory.aclose()


async def test_that_nobody_is_left_is_believed_after_a_while() -> None:
    world = FakeWorld()
    source = Script((endpoint(1), endpoint(2)), ())
    directory = Directory(world, source=source)
    await directory.start("stock")
    await world.advance(DOUBT_S - 1)
    assert known(directory) == [1, 2]
    source.telling.put_nowait(())
    await world.advance(1.5)
    assert known(directory) == []
    await directory.aclose()


async def test_a_registry_that_remembers_in_time_loses_nobody() -> None:
    world = FakeWorld()
    source = Script((endpoint(1), endpoint(2)), ())
    directory = Directory(world, source=source)
    await directory.start("stock")
    await world.advance(DOUBT_S / 2)
    source.telling.put_nowait((endpoint(1),))
    await world.advance(DOUBT_S)
    assert known(directory) == [1]
    await directory.aclose()
    assert world.pending == 0


async def test_a_table_changes_only_when_its_instances_do() -> None:
    world, tables = FakeWorld(), []
    source = Script((endpoint(1),), (endpoint(1),), (endpoint(1, zone="a"),))
    directory = Directory(world, source=source)
    directory.subscribe(tables.append)
    await directory.start("stock")
    await world.settle()
    assert [table.version for table in tables] == [1, 2]
    await directory.aclose()


async def until_known(directory: Directory) -> list[int]:
    async with asyncio.timeout(10):
        await directory.wait_for("stock")
    return known(directory)


async def test_the_cache_outlives_the_caller(tmp_path: Path) -> None:
    """Threads write and read it, and these take real time."""
    kept = tmp_path / "kept"
    source = Script((endpoint(1, zone="a"),))
    directory = Directory(FakeWorld(), source=source, cache=Cache(str(kept)))
    await directory.start("stock")
    await until_known(directory)
    async with asyncio.timeout(10):
        while not (kept / "stock.json").exists():
            await asyncio.sleep(0)
    await directory.aclose()
    again = Directory(FakeWorld(), source=Script(DiscoveryLost()), cache=Cache(str(kept)))
    await again.start("stock")
    assert await until_known(again) == [1]
    assert again.service("stock") == table_of("stock", (endpoint(1, zone="a"),))
    await again.aclose()


def test_a_cache_that_cannot_be_used_costs_nothing_but_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stock.json").write_bytes(b"{")
    assert Cache(str(tmp_path)).read("stock") is None
    assert Cache(str(tmp_path)).read("payment") is None
    nowhere = Cache(str(tmp_path / "stock.json"))
    nowhere.write(table_of("stock", ()))
    nowhere.write(table_of("stock", ()))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert list(tmp_path.iterdir()) == [tmp_path / "stock.json"]


def test_names_stay_within_the_cache(tmp_path: Path) -> None:
    Cache(str(tmp_path / "in")).write(table_of("../../out", ()))
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "in"]


@pytest.mark.parametrize(
    ("service", "index", "options", "asked"),
    [
        ("stock", 0, EVERYTHING, "/v1/health/service/stock?passing=1"),
        ("stock", 7, EVERYTHING, "/v1/health/service/stock?passing=1&index=7&wait=60s"),
        (
            "a/b ç",
            0,
            Options("dc1", ("x", "y&z")),
            "/v1/health/service/a%2Fb%20%C3%A7?passing=1&tag=x&tag=y%26z&dc=dc1",
        ),
    ],
)
def test_the_question(service: str, index: int, options: Options, asked: str) -> None:
    assert target(service, index, options) == asked


@pytest.mark.parametrize(
    ("asked", "told", "following"),
    [
        (0, "5", 5),
        (5, "6", 6),
        (5, "5", 5),
        (5, "4", 0),
        (5, "", 0),
        (0, "", 1),
        (0, "0", 1),
        (0, "-3", 1),
        (0, "²", 1),
    ],
)
def test_the_index_to_wait_for(asked: int, told: str, following: int) -> None:
    assert next_index(asked, told) == following


@given(st.integers(0, 100), st.lists(st.integers(-5, 100) | st.text(max_size=3), max_size=20))
def test_an_index_is_never_passed_over_nor_spun_on(start: int, told: list[int | str]) -> None:
    asked = start
    for each in told:
        following = next_index(asked, str(each))
        assert following == 0 or following >= asked
        assert following > 0 or asked > 0
        asked = following


def found(**service: Any) -> dict[str, Any]:
    node = {"Node": "n", "Address": "10.0.0.1", "Meta": {"zone": "a"}}
    return {"Node": node, "Service": {"ID": "s1", "Port": 80, **service}, "Checks": []}


def test_an_answer_in_full() -> None:
    service = {
        "ID": "s1",
        "Service": "stock",
        "Port": 9001,
        "Address": "10.0.0.9",
        "Meta": {"zone": "b", "weight": "2.5"},
        "Weights": {"Passing": 10, "Warning": 1},
        "Tags": None,
    }
    place = Address(host="10.0.0.9", port=9001)
    body = json.dumps([found(**service)]).encode()
    assert endpoints_of(body) == (Endpoint(instance="s1", release="", address=place, zone="b", weight=2.5),)


@pytest.mark.parametrize(
    ("service", "seen"),
    [
        ({}, ("10.0.0.1", "a", 1.0, False)),
        ({"Address": "", "Meta": None, "Weights": {"Passing": 3}}, ("10.0.0.1", "a", 3.0, False)),
        ({"Meta": {"weight": "heavy"}}, ("10.0.0.1", "a", 1.0, False)),
        ({"Meta": {"weight": "nan"}}, ("10.0.0.1", "a", 1.0, False)),
        ({"Meta": {"weight": "0"}}, ("10.0.0.1", "a", 1.0, True)),
        ({"Weights": {"Passing": 0}}, ("10.0.0.1", "a", 1.0, True)),
    ],
)
def test_what_is_missing_or_odd_in_an_answer(service: dict[str, Any], seen: tuple[Any, ...]) -> None:
    (one,) = endpoints_of(json.dumps([found(**service)]).encode())
    assert (one.address.host, one.zone, one.weight, one.draining) == seen


def test_who_cannot_be_asked_is_left_out_and_an_address_comes_once() -> None:
    body = [found(ID="a"), found(ID="b"), found(ID="c", Port=0), found(ID="d", Port=81)]
    assert [each.instance for each in endpoints_of(json.dumps(body).encode())] == ["a", "d"]
    assert endpoints_of(b"") == endpoints_of(b"[]") == ()


@given(st.binary(min_size=1, max_size=50) | st.sampled_from([b"null", b"{}", b'[{"Node": {}}]', b'[{"Service": 1}]']))
def test_nonsense_is_told_as_such(body: bytes) -> None:
    assume(body.strip(b" \n\r\t[]") != b"")
    with pytest.raises(DiscoveryLost, match="not a list of instances"):
        endpoints_of(body)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("nowhere", "is no address"),
        ("ftp://x", "no address of a registry"),
        ("consul://", "names no agent"),
        ("consul://h/path", "names no agent"),
        ("consul://h:99999", "is no address"),
        ("consul://h?colour=red", "no option colour"),
        ("static://here", "not host:port"),
        ("static://?stock=here", "not host:port"),
    ],
)
def test_a_wrong_address_is_refused_with_what_would_be_right(address: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        Directory.at(address, FakeWorld())
    assert refused.value.remedy


def test_an_agent_s_address() -> None:
    agent = agent_of("consuls://agent.example?dc=dc1&tag=a&tag=b&token=s3cret&ca=/ca.pem")
    assert (agent.host, agent.port, agent.tls, agent.ca, agent.token) == (
        "agent.example",
        8500,
        True,
        "/ca.pem",
        "s3cret",
    )
    assert agent.options == Options("dc1", ("a", "b"))
    assert "s3cret" not in str(agent)
    assert agent_of("consul://[::1]:81").host == "::1"


@pytest.mark.parametrize(
    ("address", "rest", "value"),
    [
        ("consul://h", "consul://h", ""),
        ("consul://h?cache=/a%20b", "consul://h", "/a b"),
        ("consul://h?tag=x&cache=/c&dc=d", "consul://h?tag=x&dc=d", "/c"),
    ],
)
def test_an_option_is_taken_out(address: str, rest: str, value: str) -> None:
    assert without_option(address, "cache") == (rest, value)


async def test_instances_that_are_written_down() -> None:
    anybody = source_of("static://10.0.0.1:1,10.0.0.2:2", FakeWorld())
    named = source_of("static://?stock=[::1]:1", FakeWorld())
    assert [str(each.address) for each in await anext(anybody.follow("x"))] == ["10.0.0.1:1", "10.0.0.2:2"]
    assert [each.address.host for each in await anext(named.follow("stock"))] == ["::1"]
    assert await anext(named.follow("payment")) == ()


def test_losing_a_source_is_one_of_our_errors() -> None:
    assert issubclass(DiscoveryLost, GaplessError)
