"""The wrapped app's own lifespan, whatever it makes of the scope."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.core.errors import AppError
from gapless.service.identity import Identity
from gapless.service.kit import Service
from gapless.service.lifespan import lifespan
from gapless.testing import FakeWorld

COMPLETE = "lifespan.startup.complete"


async def proper(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    scope["state"]["pool"] = 10
    await send({"type": COMPLETE})
    assert (await receive())["type"] == "lifespan.shutdown"
    scope["state"]["closed"] = True
    await send({"type": "lifespan.shutdown.complete"})


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("path")


async def silent(scope: Any, receive: Any, send: Any) -> None:
    return None


async def answers_http(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def crashes(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise OSError("no database")


async def fails(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def fails_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": COMPLETE})
    await receive()
    await send({"type": "lifespan.shutdown.failed"})


async def ends_early(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": COMPLETE})


async def test_a_proper_app_is_started_and_stopped() -> None:
    state: dict[str, Any] = {}
    async with lifespan(proper, state) as taking_part:
        assert taking_part
        assert state == {"pool": 10}
    assert state["closed"]


@pytest.mark.parametrize("app", [refuses, silent, answers_http])
async def test_an_app_without_lifespan_is_fine(app: Any) -> None:
    async with lifespan(app, {}) as taking_part:
        assert not taking_part


async def test_an_app_that_ends_its_lifespan_early_is_fine() -> None:
    async with lifespan(ends_early, {}) as taking_part:
        assert taking_part


@pytest.mark.parametrize(("app", "words"), [(crashes, "start-up failed: OSError"), (fails, "startup failed: no data")])
async def test_a_failing_start_is_told_in_the_apps_words(app: Any, words: str) -> None:
    service = Service(app=app, world=FakeWorld(), identity=Identity())
    with pytest.raises(AppError, match=words):
        await service.start(5)


async def test_a_failing_end_is_raised_with_the_others() -> None:
    service = Service(app=fails_at_the_end, world=FakeWorld(), identity=Identity())
    await service.start(5)
    with pytest.raises(ExceptionGroup) as caught:
        await service.close(5)
    assert "shutdown failed: it gave no reason" in str(caught.value.exceptions[0])
