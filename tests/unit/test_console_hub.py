"""Live pages: who looks is told what has changed, and nobody looks means no work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from gapless.console import hub as hubs
from gapless.console import stream as streams
from gapless.console.hub import Hub, Regions
from gapless.console.stream import Stream


class Rig:
    """A page whose regions a test sets; `ring` is a write of a record. Time passes only by `tick`."""

    def __init__(self) -> None:
        self.regions: Regions = {"a": "1", "b": "1"}
        self.made = 0
        self.fails = False
        self.bell = asyncio.Event()
        self._ticks: list[asyncio.Future[None]] = []
        self.hub: Hub[str] = Hub(self._make, lambda: self.bell, self._sleep)

    async def _make(self, _: str) -> Regions:
        self.made += 1
        if self.fails:
            raise RuntimeError("a broken page")
        return dict(self.regions)

    async def _sleep(self, seconds: float) -> None:
        if seconds >= hubs.REFRESH_S:
            self._ticks.append(asyncio.get_running_loop().create_future())
            await self._ticks[-1]

    async def ring(self) -> None:
        self.bell.set()
        self.bell = asyncio.Event()
        await settle()

    async def tick(self) -> None:
        for future in self._ticks:
            if not future.done():
                future.set_result(None)
        self._ticks = []
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def close(stream: AsyncIterator[Regions]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]


async def test_first_all_then_only_what_has_changed() -> None:
    rig = Rig()
    stream = rig.hub.follow("page")
    assert await anext(stream) == {"a": "1", "b": "1"}
    following = asyncio.ensure_future(anext(stream))
    rig.regions["b"] = "2"
    await rig.ring()
    assert await following == {"b": "2"}
    await close(stream)


async def test_figures_come_once_a_second_without_any_write() -> None:
    rig = Rig()
    stream = rig.hub.follow("page")
    await anext(stream)
    following = asyncio.ensure_future(anext(stream))
    await settle()
    rig.regions["a"] = "2"
    await rig.tick()
    assert await following == {"a": "2"}
    await close(stream)


async def test_those_who_look_at_the_same_page_share_its_making() -> None:
    rig = Rig()
    streams = [rig.hub.follow("page") for _ in range(5)]
    for stream in streams:
        assert await anext(stream) == {"a": "1", "b": "1"}
    assert rig.made == 1
    for stream in streams:
        await close(stream)


async def test_nobody_looks_no_work() -> None:
    rig = Rig()
    stream = rig.hub.follow("page")
    await anext(stream)
    await close(stream)
    await settle()
    made = rig.made
    await rig.ring()
    await rig.tick()
    assert (rig.made, rig.hub.streams) == (made, 0)


async def test_a_slow_reader_gets_the_newest_state_and_none_between() -> None:
    rig = Rig()
    slow = rig.hub.follow("page")
    await anext(slow)
    for value in ("2", "3", "4"):
        rig.regions["a"] = value
        await rig.ring()
    assert await anext(slow) == {"a": "4"}
    await close(slow)


async def test_a_page_that_cannot_be_made_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    stream = rig.hub.follow("page")
    await anext(stream)
    following = asyncio.ensure_future(anext(stream))
    rig.fails = True
    await rig.ring()
    assert "a broken page" in caplog.text
    rig.fails, rig.regions = False, {"a": "9", "b": "1"}
    await rig.tick()
    assert await following == {"a": "9"}
    await close(stream)


async def test_the_number_of_streams_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "STREAMS", 2)
    rig = Rig()
    streams = [rig.hub.follow("page") for _ in range(2)]
    for stream in streams:
        await anext(stream)
    assert rig.hub.full
    for stream in streams:
        await close(stream)
    assert not rig.hub.full


async def test_a_reader_that_takes_nothing_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streams, "SEND_LIMIT_S", 0.0)
    rig = Rig()
    never = asyncio.Event()

    async def receive() -> dict[str, str]:
        await never.wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await never.wait()

    with caplog.at_level("INFO"):
        await Stream({}, rig.hub.follow("page"))({"type": "http"}, receive, send)
    assert "is dropped" in caplog.text
    assert rig.hub.streams == 0
