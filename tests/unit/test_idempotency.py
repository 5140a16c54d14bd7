"""Idempotency: the claim store's verdicts, and what the middleware answers to each."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gapless.consistency.claims import Claim, Claims, Done, InFlight, Mismatch, New, StoredResponse, TakenOver
from gapless.consistency.idempotency import Idempotency, Options, complete_in, current, parse_key
from gapless.core.errors import LeaseLost, StoreBroken
from gapless.testing import FakeWorld

STORED = StoredResponse(status=201, headers=(("content-type", "text/plain"),), body=b"paid")


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
async def claims(tmp_path: Path, world: FakeWorld) -> AsyncIterator[Claims]:
    async with Claims(tmp_path / "c.db", world) as opened:
        yield opened


async def take(claims: Claims, owner: str = "a", fingerprint: bytes = b"f") -> Any:
    return await claims.claim("ann POST /pay", "k", fingerprint, owner, 2.0)


async def test_the_first_claims_the_second_waits_and_then_reads(claims: Claims) -> None:
    first = await take(claims)
    assert isinstance(first, New)
    assert await take(claims, "b") == InFlight(2.0)
    assert await take(claims, "b", b"other") == Mismatch()
    await claims.complete(first.claim, STORED)
    assert await take(claims, "b") == Done(STORED)
    assert await take(claims, "b", b"other") == Mismatch()


async def test_a_lapsed_lease_is_taken_over_and_its_owner_shut_out(claims: Claims, world: FakeWorld) -> None:
    first = (await take(claims)).claim
    await world.advance(1.5)
    await claims.renew(first, 2.0)
    await world.advance(1.5)
    assert await take(claims, "b") == InFlight(0.5)
    await world.advance(0.5)
    second = await take(claims, "b")
    assert second == TakenOver(Claim(scope="ann POST /pay", key="k", owner="b", epoch=2))
    for late in (claims.renew(first, 2.0), claims.complete(first, STORED)):
        with pytest.raises(LeaseLost, match="'k' was taken over"):
            await late
    await claims.release(first)
    await claims.abandon(first)
    assert await take(claims, "c") == InFlight(2.0)
    await claims.complete(second.claim, STORED)
    assert await take(claims, "c") == Done(STORED)


async def test_a_released_key_is_free_and_an_abandoned_one_is_taken_over(claims: Claims) -> None:
    await claims.release((await take(claims)).claim)
    again = await take(claims, "b")
    assert isinstance(again, New)
    await claims.abandon(again.claim)
    assert isinstance(await take(claims, "c"), TakenOver)


async def test_a_claim_from_before_a_reboot_has_lapsed(claims: Claims, tmp_path: Path) -> None:
    await take(claims)
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection, connection:
        connection.execute("UPDATE gapless_idempotency SET boot = 'before'")
    assert isinstance(await take(claims, "b"), TakenOver)


async def test_results_are_swept_after_their_time(tmp_path: Path, world: FakeWorld) -> None:
    async with Claims(tmp_path / "c.db", world, keep_s=60) as claims:
        await claims.complete((await take(claims)).claim, STORED)
        await world.advance(61)
    async with Claims(tmp_path / "c.db", world, keep_s=60) as claims:
        assert isinstance(await take(claims, "b"), New)


async def test_completion_joins_the_business_transaction(claims: Claims, tmp_path: Path) -> None:
    first = (await take(claims)).claim
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        connection.execute("CREATE TABLE ledger (amount INTEGER)")
        connection.execute("INSERT INTO ledger VALUES (1)")
        complete_in(connection, first, STORED)
        connection.rollback()
        assert await take(claims, "b") == InFlight(2.0)
        connection.execute("INSERT INTO ledger VALUES (1)")
        complete_in(connection, first, STORED)
        connection.commit()
    await claims.complete(first, StoredResponse(status=200, headers=(), body=b"later"))
    assert await take(claims, "b") == Done(STORED)


async def test_a_file_that_is_no_database_is_told(tmp_path: Path, world: FakeWorld) -> None:
    (tmp_path / "c.db").write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(StoreBroken, match=r"c\.db is not an SQLite database"):
        async with Claims(tmp_path / "c.db", world):
            pass


# The middleware.


class Shop:
    """An app that counts what it does and answers as told."""

    def __init__(self) -> None:
        self.calls = 0
        self.status = 201
        self.body = b"paid"
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.seen = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.seen = (await receive())["body"]
        assert current() is not None or scope["method"] != "POST" or b"idempotency-key" not in dict(scope["headers"])
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        headers = [(b"Content-Type", b"text/plain"), (b"set-cookie", b"s=1"), (b"location", b"/orders/7")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body[:2], "more_body": True})
        await send({"type": "http.response.body", "body": self.body[2:]})


class Caller:
    """Sends requests through the middleware."""

    def __init__(self, claims: Claims, world: FakeWorld, **options: Any) -> None:
        self.shop = Shop()
        self.world = world
        self.app = Idempotency(self.shop, claims, world, Options(**options))

    async def pay(
        self, key: str | None = "k", body: bytes = b"10", user: str = "ann", path: str = "/pay", method: str = "POST"
    ) -> tuple[int, dict[str, str], bytes]:
        headers = [(b"x-user-id", user.encode())]
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        sent: list[Any] = []
        told = [
            {"type": "http.request", "body": body[:1], "more_body": True},
            {"type": "http.request", "body": body[1:]},
        ]

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return told.pop(0)

        scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
        await self.app(scope, receive, send)
        answered = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], answered, b"".join(message["body"] for message in sent[1:])

    async def paying(self, **options: Any) -> asyncio.Task[Any]:
        """A payment that has reached the app or waits for another one."""
        task = asyncio.ensure_future(self.pay(**options))
        for _ in range(200):
            await asyncio.sleep(0.001)
            if self.shop.calls:
                break
        return task

    async def end(self, task: asyncio.Task[Any], step_s: float = 0.1) -> Any:
        """Its result, letting both clocks run."""
        for _ in range(200):
            if task.done():
                break
            await self.world.advance(step_s)
            await asyncio.sleep(0.002)
        return await task


@pytest.fixture
def caller(claims: Claims, world: FakeWorld) -> Caller:
    return Caller(claims, world)


async def test_a_repeated_request_is_answered_from_what_is_kept(caller: Caller) -> None:
    status, headers, body = await caller.pay()
    assert (status, body, headers.get("set-cookie"), caller.shop.seen) == (201, b"paid", "s=1", b"10")
    assert "idempotent-replayed" not in headers
    status, headers, body = await caller.pay('"k"')
    assert (status, body, headers["location"], headers["content-length"]) == (201, b"paid", "/orders/7", "4")
    assert headers["idempotent-replayed"] == "true"
    assert "set-cookie" not in headers
    assert caller.shop.calls == 1


async def test_users_paths_and_keys_do_not_meet(caller: Caller) -> None:
    for options in ({}, {"user": "bob"}, {"path": "/refund"}, {"key": "k2"}):
        assert (await caller.pay(**options))[0] == 201
    assert caller.shop.calls == 4


async def test_another_payload_is_refused(caller: Caller) -> None:
    await caller.pay()
    status, headers, _ = await caller.pay(body=b"99")
    assert (status, headers["content-type"], caller.shop.calls) == (422, "application/problem+json", 1)


async def test_the_same_key_in_flight_is_waited_for(caller: Caller) -> None:
    caller.shop.gate = asyncio.Event()
    first = await caller.paying()
    second = await caller.paying()
    caller.shop.gate.set()
    assert (await caller.end(first))[0] == 201
    status, headers, _ = await caller.end(second)
    assert (status, headers["idempotent-replayed"], caller.shop.calls) == (201, "true", 1)


async def test_one_that_takes_long_is_renewed_and_others_told_to_come_back(caller: Caller) -> None:
    caller.shop.gate = asyncio.Event()
    first = await caller.paying()
    status, headers, _ = await caller.end(await caller.paying())
    assert (status, int(headers["retry-after"]) >= 1, caller.shop.calls) == (409, True, 1)
    caller.shop.gate.set()
    assert (await caller.end(first))[0] == 201


@pytest.mark.parametrize(("status", "calls"), [(200, 1), (404, 1), (409, 1), (429, 2), (500, 2), (503, 2)])
async def test_what_is_kept_depends_on_the_status(caller: Caller, status: int, calls: int) -> None:
    caller.shop.status = status
    assert [(await caller.pay())[0] for _ in range(2)] == [status, status]
    assert caller.shop.calls == calls


async def test_a_crash_in_the_handler_lets_the_next_take_over(caller: Caller) -> None:
    caller.shop.error = OSError("disk")
    with pytest.raises(OSError, match="disk"):
        await caller.pay()
    caller.shop.error = None
    assert (await caller.pay())[0] == 201


async def test_a_cancelled_handler_lets_the_next_take_over(caller: Caller) -> None:
    caller.shop.gate = asyncio.Event()
    first = await caller.paying()
    first.cancel()
    await asyncio.wait({first})
    caller.shop.gate = None
    assert (await caller.pay())[0] == 201


async def test_a_stalled_owner_does_not_answer_for_the_one_that_took_over(caller: Caller, tmp_path: Path) -> None:
    caller.shop.gate = asyncio.Event()
    first = await caller.paying()
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection, connection:
        connection.execute("UPDATE gapless_idempotency SET owner = 'b', epoch = 2")
    caller.shop.gate.set()
    status, headers, _ = await caller.end(first)
    assert (status, headers["retry-after"]) == (409, "1")


async def test_a_large_answer_is_streamed_and_leaves_a_tombstone(claims: Claims, world: FakeWorld) -> None:
    caller = Caller(claims, world, largest=100)
    caller.shop.body = b"x" * 101
    assert (await caller.pay())[2] == b"x" * 101
    status, headers, body = await caller.pay()
    assert (status, headers["idempotent-replayed"], caller.shop.calls) == (409, "true", 1)
    assert b"too large" in body
    assert (await caller.pay("k2", body=b"x" * 101))[0] == 413


async def test_requests_without_a_key_pass_unless_it_is_required(claims: Claims, world: FakeWorld) -> None:
    caller = Caller(claims, world)
    assert [(await caller.pay(None))[0] for _ in range(2)] == [201, 201]
    assert (await caller.pay(method="PUT"))[0] == 201
    assert caller.shop.calls == 3
    strict = Caller(claims, world, required=True)
    assert (await strict.pay(None))[0] == 400
    assert (await strict.pay("k" * 256))[0] == 400
    assert strict.shop.calls == 0


async def test_nothing_is_done_while_keys_cannot_be_stored(world: FakeWorld, tmp_path: Path) -> None:
    caller = Caller(Claims(tmp_path / "no" / "c.db", world), world)
    status, headers, _ = await caller.pay()
    assert (status, headers["retry-after"], caller.shop.calls) == (503, "1", 0)
    await caller.app._claims.aclose()


async def test_at_the_end_of_the_apps_life_the_file_is_closed(claims: Claims, world: FakeWorld) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert claims._thread is not None

    await Idempotency(app, claims, world)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert claims._thread is None


@pytest.mark.parametrize(
    ("value", "key"), [(b"abc", "abc"), (b'"abc"', "abc"), (b' "a\\"b\\\\c" ', 'a"b\\c'), (b'"', '"')]
)
def test_keys_may_be_quoted_or_bare(value: bytes, key: str) -> None:
    assert parse_key(value) == key


@pytest.mark.parametrize("value", [b"", b'""', b"a" * 256, b"a\nb"])
def test_other_keys_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        parse_key(value)
