"""Live settings: from four sources, whole or not at all, consistent, and silent about secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from gapless.config import NEEDS_RESTART, Settings, live
from gapless.config.callbacks import ASK_LIMIT_S
from gapless.config.layers import Layer
from gapless.config.live_settings import Live
from gapless.config.secret_references import misfit
from gapless.core.errors import ConfigError
from gapless.core.watched import POLL_S
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld


class Price(Settings):
    max: int = Field(default=3, ge=1)
    currency: str = "EUR"


class Shop(Settings):
    price: Price = Price()
    hosts: tuple[str, ...] = ()
    pool: Annotated[int, NEEDS_RESTART] = 10
    password: SecretStr | None = None
    debug: bool = False

    @model_validator(mode="after")
    def _enough(self) -> Shop:
        if self.price.max > 10 * self.pool:
            raise ValueError("price.max is more than ten times the pool")
        return self


def stored(**value: Any) -> Layer:
    return Layer(name="store", value=value, kept=True)


def shop(file: Path | None = None, world: FakeWorld | None = None, **env: str) -> Live[Shop]:
    return live(Shop, file=file, prefix="SHOP_", env=env, world=world or FakeWorld())


async def loaded(file: Path | None = None, world: FakeWorld | None = None, **env: str) -> Live[Shop]:
    settings = shop(file, world, **env)
    await settings.load()
    return settings


async def refused(act: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        await act
    return caught.value.what.splitlines()


async def test_the_later_source_wins_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("price: {max: 4, currency: USD}\nhosts: [a, b]\npool: 5\n")
    settings = await loaded(file, SHOP_PRICE__MAX="6", SHOP_HOSTS="[c]", OTHER="x")
    assert settings.current == Shop(price=Price(max=6, currency="USD"), hosts=("c",), pool=5)
    await settings.take(stored(price={"max": 7}))
    assert settings.current.price == Price(max=7, currency="USD")
    await settings.take(None)
    assert settings.current.price.max == 6
    assert settings.shown()["price.max"] == {"value": "6", "from": "SHOP_PRICE__MAX"}
    assert settings.shown()["price.currency"] == {"value": "USD", "from": f"{file}:1"}
    assert settings.shown()["debug"] == {"value": "false", "from": "default"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("shop.yaml", 'price:\n  max: five\nhsts: [a]\npassword: "secret:env:NONE"\n'),
        ("shop.json", '{"price": {\n\t"max": "five"},\n\t"hsts": ["a"],\n\t"password": "secret:env:NONE"}'),
        ("shop.toml", 'hsts = [\n"a"]\npassword = "secret:env:NONE"\n[price] # all of it\nmax = "five"\n'),
    ],
)
async def test_every_mistake_is_told_at_once_with_its_place(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    lines = {"shop.yaml": (2, 3, 4), "shop.json": (2, 3, 4), "shop.toml": (5, 1, 3)}[name]
    told = await refused(shop(file, SHOP_DEBUG="perhaps").load())
    assert told == sorted(
        [
            'SHOP_DEBUG: debug: "perhaps": neither true nor false',
            f'{file}:{lines[0]}: price.max: "five": not a whole number',
            f'{file}:{lines[1]}: hsts: unknown key; did you mean "hosts"?',
            f"{file}:{lines[2]}: password: secret:env:NONE: there is no variable NONE",
        ]
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "a: [", "a.yaml:1: this is not YAML"),
        ("a.yaml", "- a", "a.yaml:1: not a mapping"),
        ("a.json", '{"a": 1,\n}', "a.json:2: this is not JSON"),
        ("a.json", '{"a": 1,\n"a": 2}', "a.json:2: a: this key is already there"),
        ("a.toml", "a = 1\nb = ", "a.toml:2: this is not TOML"),
        ("a.toml", "a = [", "a.toml:1: this is not TOML"),
    ],
)
async def test_a_file_that_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    (line, *_) = await refused(shop(tmp_path / name).load())
    assert said in line
    assert await refused(shop(tmp_path / "none.yaml").load())


async def test_a_wrong_change_changes_nothing_and_says_where_it_stands() -> None:
    settings = await loaded()
    before = settings.current
    layer = Layer(name="store", value={"price": {"max": "0"}}, places={("price", "max"): "orders.yaml:7"}, kept=True)
    assert await refused(settings.take(layer)) == ["orders.yaml:7: price.max: 0 must be at least 1"]
    assert settings.current is before


async def test_a_change_is_swapped_at_once_and_a_request_sees_one_value() -> None:
    settings = await loaded()
    before = settings.current
    token = settings.pin()
    taken = await settings.take(stored(price={"max": 5}))
    assert taken.changes == ("price.max: 3 → 5",)
    assert settings.current is before
    assert settings.latest.price.max == 5
    settings.unpin(token)
    assert settings.current.price.max == 5


async def test_all_are_asked_before_anybody_is_told() -> None:
    settings, heard = await loaded(), list[str]()

    @settings.check
    async def affordable(before: Shop, after: Shop) -> bool:
        heard.append(f"affordable {before.price.max} {after.price.max}")
        return after.price.max < 50

    @settings.changed
    def told(before: Shop, after: Shop) -> None:
        heard.append("told")

    @settings.changed
    async def both(before: Shop, after: Shop) -> AsyncIterator[None]:
        heard.append("asked")
        if after.hosts == ("bad",):
            raise ValueError("no such host")
        try:
            yield
            heard.append("swapped" if settings.latest is after else "too early")
        finally:
            heard.append("closed")

    await settings.take(stored(price={"max": 5}))
    assert heard == ["affordable 3 5", "asked", "told", "swapped", "closed"]
    heard.clear()
    assert await refused(settings.take(stored(price={"max": 60}, hosts=["bad"]))) == [
        "affordable refuses: it returned False",
        "both refuses: no such host",
    ]
    assert await refused(settings.take(stored(price={"max": 60}))) == ["affordable refuses: it returned False"]
    assert heard[-1] == "closed"
    assert "told" not in heard
    assert settings.current.price.max == 5
    heard.clear()
    assert (await settings.consider(stored(price={"max": 7}))).changes == ("price.max: 5 → 7",)
    assert heard == ["affordable 5 7", "asked", "closed"]
    assert settings.current.price.max == 5


async def test_who_is_told_and_fails_is_named_and_the_others_hear_it_too(caplog: pytest.LogCaptureFixture) -> None:
    settings, heard = await loaded(), list[str]()

    @settings.changed
    def broken(before: Shop, after: Shop) -> None:
        raise RuntimeError("out of luck")

    @settings.changed
    def sync_generator(before: Shop, after: Shop) -> Iterator[None]:
        yield
        heard.append("told")

    taken = await settings.take(stored(price={"max": 5}))
    assert taken.failures == ("broken failed: out of luck",)
    assert heard == ["told"]
    assert "broken failed when it was told" in caplog.text


async def test_who_does_not_answer_refuses() -> None:
    world = FakeWorld()
    settings = await loaded(world=world)

    @settings.check
    async def stuck(before: Shop, after: Shop) -> None:
        await asyncio.Event().wait()

    taking = asyncio.ensure_future(refused(settings.take(stored(price={"max": 5}))))
    await world.advance(ASK_LIMIT_S)
    assert await taking == [f"stuck refuses: it took more than {ASK_LIMIT_S:g} s"]


async def test_what_needs_a_restart_is_reported_and_the_rest_takes_effect() -> None:
    settings = await loaded()
    taken = await settings.take(stored(pool=20, price={"max": 5}))
    assert (taken.changes, taken.pending) == (("price.max: 3 → 5",), ("pool: 10 → 20",))
    assert settings.pending == ("pool: 10 → 20",)
    assert (settings.current.pool, settings.current.price.max) == (10, 5)
    told = await refused(settings.take(stored(pool=20, price={"max": 150})))
    assert "does not go together with pool as it runs: price.max is more than ten times the pool" in told[0]
    assert settings.current.price.max == 5
    await settings.take(stored(pool=10, price={"max": 5}))
    assert settings.pending == ()
    anew = shop()
    await anew.load(stored(pool=20, price={"max": 150}))
    assert (anew.current.pool, anew.pending) == (20, ())


async def test_the_file_is_watched_and_a_wrong_one_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, world = tmp_path / "shop.yaml", FakeWorld()
    file.write_text("price: {max: 4}")
    settings = await loaded(file, world)
    watching = asyncio.ensure_future(settings.watch())
    replaced(file, "price: {max: 8}")
    await world.advance(POLL_S * 1.5)
    assert settings.current.price.max == 8
    replaced(file, "\nprice: {max: x}")
    await world.advance(POLL_S * 1.5)
    assert settings.current.price.max == 8
    assert f'{file}:2: price.max: "x": not a whole number' in caplog.text
    await settings.take(stored(hosts=["a"]))
    assert settings.current == Shop(price=Price(max=8), hosts=("a",))
    watching.cancel()


async def test_a_store_of_ones_own_is_followed() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    await store.put("shop/settings", b"price: {max: 9}")
    settings = live(Shop, store=store, key="shop/settings", env={}, world=world)
    await settings.load()
    assert settings.current.price.max == 9
    watching = asyncio.ensure_future(settings.watch())
    await world.advance(0.1)
    await store.put("shop/settings", json.dumps({"price": {"max": 11}}).encode())
    await world.advance(0.1)
    assert settings.current.price.max == 11
    await store.put("shop/settings", b"price: {max: x}")
    await world.advance(0.1)
    assert settings.current.price.max == 11
    watching.cancel()
    await store.close()


def replaced(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, file)


SECRET = "hunter2-the-very-secret"


class Quoting(Settings):
    """An author who quotes what he was given."""

    password: SecretStr = SecretStr("")
    names: dict[str, SecretStr] = Field(default_factory=dict)
    plain: str = ""

    @field_validator("password")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value().endswith("x"):
            raise ValueError(f"{value.get_secret_value()} is weak")
        return value


async def test_a_secret_is_read_by_reference_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key, world = tmp_path / "password", FakeWorld()
    key.write_text(SECRET + "\n")
    settings = live(Quoting, env={"PASSWORD": SECRET + "x"}, world=world)
    await settings.load(stored(password=f"secret:file:{key}"))
    assert settings.current.password.get_secret_value() == SECRET
    told = [str(settings.shown()), repr(settings), repr(settings.current), str(settings.current)]

    @settings.check
    def quoting(before: Quoting, after: Quoting) -> None:
        if after.plain:
            raise ValueError(f"the password is {after.password.get_secret_value()}")

    @settings.changed
    def failing(before: Quoting, after: Quoting) -> None:
        raise RuntimeError(f"cannot use {after.password.get_secret_value()}")

    watching = asyncio.ensure_future(settings.watch())
    replaced(key, SECRET + "-rotated")
    await world.advance(POLL_S * 1.5)
    assert settings.current.password.get_secret_value() == SECRET + "-rotated"
    replaced(key, SECRET + "-x")
    await world.advance(POLL_S * 1.5)
    assert settings.current.password.get_secret_value() == SECRET + "-rotated"
    key.unlink()
    await world.advance(POLL_S * 1.5)
    watching.cancel()
    for wrong in (
        stored(password="secret:env:PASSWORD"),
        stored(password=SECRET),
        stored(names={"a": SECRET}),
        stored(names={"a": [SECRET]}),
        stored(password=f"secret:{SECRET}"),
        stored(plain="secret:env:PASSWORD"),
        stored(plain="y", password="secret:file:" + str(key)),
    ):
        told += await refused(settings.take(wrong))
    assert not [line for line in [*told, *caplog.text.splitlines()] if SECRET in line]
    assert any("(secret) is weak" in line for line in told)
    assert any("a secret itself must not be here" in line for line in told)
    assert any("needs a field of the type SecretStr" in line for line in told)
    assert "cannot use (secret)" in caplog.text


def test_the_type_must_be_frozen() -> None:
    class Inner(BaseModel):
        size: int = 1

    class Outer(Settings):
        inner: dict[str, Inner] = Field(default_factory=dict)

    with pytest.raises(ConfigError, match="frozen, and Inner is not"):
        live(Outer)


def test_settings_are_not_read_before_they_are_loaded() -> None:
    with pytest.raises(ConfigError, match="not loaded yet"):
        _ = shop().current


async def test_a_misspelt_variable_is_told(caplog: pytest.LogCaptureFixture) -> None:
    settings = await loaded(SHOP_PRICE__MAXX="4", SHOP_SERVICE_HOST="10.0.0.1")
    assert settings.current.price.max == 3
    assert "SHOP_PRICE__MAXX means nothing; SHOP_PRICE__MAX was probably meant" in caplog.text
    assert "SERVICE_HOST" not in caplog.text


TEXTS = st.text(st.characters(categories=["L", "N", "P"]), min_size=8, max_size=20)


@given(TEXTS, st.sampled_from(["{}", "{}x", "secret:{}", ["{}"], {"a": "{}"}]), st.booleans())
def test_no_secret_is_ever_in_what_is_told(secret: str, shape: Any, by_reference: bool) -> None:
    """Whatever is wrong around it, in a field that is secret or by a reference. What a reference names is no secret."""
    assume(misfit(f"secret:{secret}"))

    def put(shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: put(each) for key, each in shape.items()}
        return [put(each) for each in shape] if isinstance(shape, list) else shape.format(secret)

    async def told() -> str:
        settings = live(Quoting, env={"IT": secret + "x"}, world=FakeWorld())
        await settings.load()
        value = {"password": "secret:env:IT"} if by_reference else {"password": put(shape), "names": {"a": put(shape)}}
        try:
            await settings.take(stored(plain=["wrong"], **value))
        except ConfigError as error:
            return str(error)
        return ""

    text = asyncio.run(told())
    assert text
    assert secret not in text


async def test_what_waits_for_a_restart_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    settings = await loaded()
    for price in (4, 5, 6):
        await settings.take(stored(pool=20, price={"max": price}))
    assert caplog.text.count("need a restart") == 1
