"""State that travels from one process of a service to the next."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless import Service, breaker
from gapless.core.errors import ConfigError
from gapless.core.size import size
from gapless.server.handover.carry import read, written
from gapless.service.carry import Carrying, decode, encode
from gapless.testing import FakeWorld


def carrying() -> Carrying:
    return Carrying(FakeWorld(), dict)


@given(st.dictionaries(st.text(), st.binary() | st.just('{"a": [1]}')))
def test_what_is_encoded_can_be_decoded(parts: dict[str, Any]) -> None:
    expected = [(name, {"a": [1]} if isinstance(part, str) else part) for name, part in parts.items()]
    assert list(decode(encode(list(parts.items())))) == expected


@given(st.binary())
def test_what_is_no_state_is_refused_with_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="this is no state"):
        list(decode(content))


async def test_a_part_that_is_cut_off_stays_behind() -> None:
    new = carrying()
    new.add("a", lambda: b"", lambda _: None, 10)
    left = await new.load(encode([("a", b"x" * 10)])[:-1])
    assert list(left.behind) == ["all"]


async def test_bytes_and_values_come_as_they_were() -> None:
    old, new = carrying(), carrying()
    got: dict[str, Any] = {}
    old.add("cache", lambda: b"\x00\xff", print, "1KB")

    async def dump() -> Any:
        await asyncio.sleep(0)
        return {"seen": [1, 2]}

    old.add("counts", dump, print, "1KB")
    old.add("gone", lambda: 1, print, "1KB")
    for name in ("cache", "counts", "other"):
        new.add(name, lambda: None, lambda value, name=name: got.update({name: value}), 0)
    content, left = await old.dump(1.0)
    assert left.done == ["cache", "counts", "gone"]
    loaded = await new.load(content)
    assert loaded == (["cache", "counts"], {})
    assert got == {"cache": b"\x00\xff", "counts": {"seen": [1, 2]}}


async def test_what_is_too_big_broken_or_no_value_stays_behind_and_the_rest_travels() -> None:
    old = carrying()
    old.add("big", lambda: b"x" * 11, print, 10)
    old.add("broken", lambda: 1 / 0, print, 10)
    old.add("object", object, print, 10)
    old.add("fine", lambda: [1], print, 10)
    content, left = await old.dump(1.0)
    assert [name for name, _ in decode(content)] == ["fine"] == left.done
    assert left.behind["big"] == "ValueError: 11 bytes are over its limit of 10"
    assert left.behind["broken"] == "ZeroDivisionError: division by zero"
    assert left.behind["object"].startswith("TypeError")


async def test_what_takes_too_long_stays_behind() -> None:
    world = FakeWorld()
    old = Carrying(world, dict)
    old.add("slow", lambda: world.sleep(60), print, 10)
    dumping = asyncio.ensure_future(old.dump(1.0))
    await asyncio.sleep(0)
    await world.advance(1.0)
    _, left = await dumping
    assert left.behind == {"slow": "it took too long"}


async def test_a_load_that_fails_hinders_nobody() -> None:
    new = carrying()
    got: list[Any] = []
    new.add("bad", lambda: None, lambda _: 1 / 0, 10)
    new.add("good", lambda: None, got.append, 10)
    left = await new.load(encode([("bad", b"1"), ("good", b"2")]))
    assert (left.done, got) == (["good"], [b"2"])
    assert left.behind == {"bad": "ZeroDivisionError: division by zero"}


async def test_a_services_guards_travel_by_themselves() -> None:
    world = FakeWorld()
    old, new = Service("a", world=world), Service("b", world=world)
    for service in (old, new):
        assert not service.carrying.parts
        service.guards.define("mail", breaker(rate=0.5, minimum=2, open_for=60.0))
    for _ in range(3):
        with pytest.raises(Exception), old.guards.get("mail").enter():  # noqa: B017, PT011 - whichever
            raise ConnectionError
    content, left = await old.carrying.dump(1.0)
    assert left.done == ["gapless.guards"]
    assert (await new.carrying.load(content)).done == ["gapless.guards"]
    with pytest.raises(Exception, match="open"), new.guards.get("mail").enter():
        raise ConnectionError


def test_names_are_unique_and_limits_are_sizes() -> None:
    service = Service("a")
    service.carry("cache", dump=dict, load=print, limit="2KiB")
    assert service.carrying.parts["cache"].limit == 2048
    with pytest.raises(ValueError, match="already"):
        service.carry("cache", dump=dict, load=print)
    with pytest.raises(ConfigError, match="the limit of big"):
        service.carry("big", dump=dict, load=print, limit="much")


@pytest.mark.parametrize(
    ("text", "value"), [("", 0), ("7", 7), ("512MB", 512_000_000), ("2 GiB", 2 << 30), ("1KB", 1000), ("9B", 9)]
)
def test_sizes(text: str, value: int) -> None:
    assert size(text, "--max-memory") == value


def test_a_file_in_memory_holds_what_was_written() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    fd = written(b"state" * 100_000)
    assert read(fd) == b"state" * 100_000
    assert sorted(os.listdir("/proc/self/fd")) == before
