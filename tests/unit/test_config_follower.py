"""A worker's side of the configuration channel: what it takes, what it tells, and what it starts with alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from gapless.config import Settings, live
from gapless.config.layers import Layer
from gapless.core.codec import encode
from gapless.core.configured import ConfigAsk, ConfigDocument, ConfigMessage, ConfigReply, ConfigRevision
from gapless.core.errors import ConfigError
from gapless.service.config_follower import FIRST_LIMIT_S, Follower
from gapless.service.configuration import Configuration
from gapless.service.identity import Identity
from gapless.service.kit import Service
from gapless.service.wsgi import from_wsgi
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

WHO = Identity(service="shop", instance="shop-1")


class Shop(Settings):
    price: int = 3


def revision(number: int, price: Any) -> ConfigRevision:
    return ConfigRevision(service="shop", number=number, values={"price": price})


def line(document: ConfigDocument | None = None, ask: ConfigAsk | None = None) -> bytes:
    return encode(ConfigMessage(document=document, ask=ask))


class Channel:
    """The control plane's end. `deaf`: nobody is there."""

    def __init__(self, file: Path | None = None) -> None:
        self.world = FakeWorld()
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.said: list[ConfigReply] = []
        self.deaf = False
        self.settings = live(Shop, env={}, world=self.world)
        self.follower = Follower(self.settings, WHO, self.world, str(file or ""), self.stream, self.say)

    async def stream(self) -> AsyncGenerator[bytes]:
        if self.deaf:
            raise ConnectionRefusedError("nobody is there")
        while (found := await self.lines.get()) is not None:
            yield found
        raise EOFError

    async def say(self, reply: ConfigReply) -> None:
        if self.deaf:
            raise ConnectionRefusedError
        self.said.append(reply)

    async def begin(self) -> None:
        await self.settings.load(await self.follower.first())
        self.following = asyncio.ensure_future(self.follower.follow())

    async def hear(self, line: bytes | None) -> list[ConfigReply]:
        await self.lines.put(line)
        await self.world.advance(0.01)
        said, self.said = self.said, []
        return said


async def test_it_takes_what_it_is_told_and_says_so() -> None:
    channel = Channel()
    await channel.lines.put(line(ConfigDocument(service="shop", current=revision(1, 5))))
    await channel.begin()
    assert channel.settings.current.price == 5
    (said,) = await channel.hear(line(ConfigDocument(service="shop", current=revision(2, 6))))
    assert (said.number, said.ok, said.changes) == (2, True, ("price: 5 → 6",))
    staged = ConfigDocument(service="shop", current=revision(2, 6), staged=revision(3, 7), members=("shop-2",))
    (said,) = await channel.hear(line(staged))
    assert (said.number, channel.settings.current.price) == (2, 6)
    mine = ConfigDocument(service="shop", current=revision(2, 6), staged=revision(3, 7), members=("shop-1",))
    (said,) = await channel.hear(line(mine))
    assert (said.number, channel.settings.current.price) == (3, 7)
    (said,) = await channel.hear(line(ConfigDocument(service="shop")))
    assert (said.number, channel.settings.current.price) == (0, 3)
    channel.following.cancel()


async def test_a_refused_revision_is_told_once_tried_once_and_left_behind() -> None:
    channel = Channel()
    channel.deaf = True
    await channel.begin()
    channel.deaf = False
    await channel.world.advance(6.0)
    bad = line(ConfigDocument(service="shop", current=revision(4, "many")))
    for _ in range(2):
        (said,) = await channel.hear(bad)
        assert (said.number, said.ok) == (4, False)
        assert said.what == 'store (revision 4): price: "many": not a whole number'
    assert channel.settings.current.price == 3
    (said,) = await channel.hear(line(ConfigDocument(service="shop", current=revision(3, 8))))
    assert (said.number, said.ok, channel.settings.current.price) == (3, True, 8)
    channel.following.cancel()


async def test_it_answers_whether_it_would_take_a_revision() -> None:
    channel = Channel()
    await channel.lines.put(line(ConfigDocument(service="shop")))
    await channel.begin()
    (good,) = await channel.hear(line(ask=ConfigAsk(id=7, revision=revision(1, 5))))
    (bad,) = await channel.hear(line(ask=ConfigAsk(id=8, revision=revision(1, "x"))))
    (shown,) = await channel.hear(line(ask=ConfigAsk(id=9)))
    assert (good.ask, good.ok, good.changes) == (7, True, ("price: 3 → 5",))
    assert (bad.ask, bad.ok) == (8, False)
    assert (shown.ask, shown.shown) == (9, {"price": {"value": "3", "from": "default"}})
    assert channel.settings.current.price == 3
    channel.following.cancel()


async def test_alone_it_begins_with_the_file_and_a_lost_stream_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "shop.json"
    file.write_bytes(encode(ConfigDocument(service="shop", current=revision(1, 5))))
    channel = Channel(file)
    channel.deaf = True
    await channel.begin()
    assert channel.settings.current.price == 5
    await channel.world.advance(20.0)
    channel.deaf = False
    await channel.lines.put(line(ConfigDocument(service="shop", current=revision(2, 6))))
    await channel.world.advance(6.0)
    assert channel.settings.current.price == 6
    await channel.hear(None)
    assert channel.settings.current.price == 6
    await channel.lines.put(b'{"document": 5}')
    await channel.world.advance(6.0)
    assert (await channel.hear(line(ConfigDocument(service="shop", current=revision(3, 7)))))[-1].number == 3
    channel.following.cancel()


async def test_a_silent_control_plane_is_not_waited_for_and_a_broken_file_is_told(tmp_path: Path) -> None:
    channel = Channel(tmp_path / "shop.json")
    beginning = asyncio.ensure_future(channel.begin())
    await channel.world.advance(FIRST_LIMIT_S)
    await beginning
    assert channel.settings.current.price == 3
    channel.following.cancel()
    (tmp_path / "shop.json").write_text("{")
    other = Channel(tmp_path / "shop.json")
    other.deaf = True
    with pytest.raises(ConfigError, match="cannot be read"):
        await other.begin()


async def test_a_request_sees_one_configuration_to_its_end() -> None:
    settings, world, seen = live(Shop, env={}, world=FakeWorld()), FakeWorld(), list[tuple[int, int]]()
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("http only")
        before = settings.current.price
        await go_on.wait()
        seen.append((before, settings.current.price))

    service = Service("shop", app, settings=settings, identity=Identity(), world=world)
    assert service.settings is settings
    await service.start()
    asking = asyncio.ensure_future(service.app(http("/"), None, None))
    await asyncio.sleep(0)
    await settings.take(Layer(name="store", value={"price": 9}))
    assert settings.current.price == 9
    go_on.set()
    await asking
    assert seen == [(3, 3)]
    await service.finish(1.0)
    await service.close(1.0)


async def test_changes_are_on_the_metrics() -> None:
    settings = live(Shop, env={}, world=FakeWorld())
    service = Service("shop", None, settings=settings, identity=Identity(), world=FakeWorld())
    await settings.load()
    for value in (4, 4, 5):
        await settings.take(Layer(name="store", value={"price": value}))
    with pytest.raises(ConfigError):
        await settings.take(Layer(name="store", value={"price": "x"}))
    shown = {sample["name"]: sample["values"] for sample in service.samples()}
    assert shown["gapless_settings_changes"] == [[["taken"], 2.0], [["refused"], 1.0]]
    assert shown["gapless_settings_pending"] == [[[], 0.0]]


async def test_a_store_of_ones_own_comes_instead_of_the_systems() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    await store.put("settings", b"price: 7")
    settings = live(Shop, store=store, env={}, world=world)
    in_a_system = Identity(service="shop", instance="shop-1", discovery="/nobody/control.sock")
    configuration = Configuration(settings, in_a_system, world)
    assert (await configuration.load()).current.price == 7
    assert list(configuration.loops()) == ["live settings"]
    await store.close()


async def test_a_service_does_not_start_with_wrong_settings() -> None:
    settings = live(Shop, prefix="SHOP_", env={"SHOP_PRICE": "much"}, world=FakeWorld())
    service = Service("shop", None, settings=settings, identity=Identity(), world=FakeWorld())
    with pytest.raises(ConfigError, match='SHOP_PRICE: price: "much": not a whole number'):
        await service.start()


def http(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": []}


class Context:
    """As much of a gRPC call as is looked at when it begins."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> None:
        return None


async def test_so_does_a_grpc_call() -> None:
    from gapless.service.grpc_service import GrpcService

    settings = live(Shop, env={}, world=FakeWorld())
    service = GrpcService("shop", lambda server: None, settings=settings, identity=Identity(), world=FakeWorld())
    await settings.load()

    async def call() -> tuple[int, int]:
        service.calls.begin("/shop.Shop/Get", Context())
        await settings.take(Layer(name="store", value={"price": settings.latest.price + 1}))
        return settings.current.price, settings.latest.price

    assert await asyncio.create_task(call()) == (3, 4)
    assert await asyncio.create_task(call()) == (4, 5)


async def test_so_does_the_thread_of_a_wsgi_app() -> None:
    settings, seen = live(Shop, env={}, world=FakeWorld()), list[int]()
    began, go_on = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(settings.current.price)
        began.set()
        go_on.wait(20)
        seen.append(settings.current.price)
        start_response("200 OK", [])
        return [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        """Nobody looks at the answer."""

    service = Service("shop", from_wsgi(app), settings=settings, identity=Identity(), world=FakeWorld())
    await settings.load()
    scope = http("/") | {"query_string": b"", "http_version": "1.1", "root_path": "", "scheme": "http"}
    asking = asyncio.ensure_future(service.app(scope, receive, send))
    assert await asyncio.to_thread(began.wait, 20)
    await settings.take(Layer(name="store", value={"price": 9}))
    go_on.set()
    await asking
    assert seen == [3, 3]
