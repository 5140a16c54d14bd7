"""The example shop: whatever is repeated, killed or run at once, each order is paid once and the stock fits."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SHOP = Path(__file__).parents[2] / "examples" / "shop"
sys.path.insert(0, str(SHOP))

from shop import book, inventory, payment, schema  # noqa: E402
from shop.catalogue import PRICES  # noqa: E402
from shop.purchase import Unfinished, finish  # noqa: E402
from shop.web import Refusal  # noqa: E402

T = TypeVar("T")


class Killed(Exception):
    """The other end died here."""


@dataclass
class Answer:
    status: int

    def json(self) -> Any:
        return {}


class Memory:
    """The shop's Database without a file and a thread."""

    def __init__(self, statements: Iterable[str]) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        for statement in statements:
            self.connection.execute(statement)

    def __del__(self) -> None:
        self.connection.close()

    async def write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(0)  # others get a turn between transactions, never within one
        return act(self.connection)


@dataclass
class Other:
    """Another service whose answers die at the times that `deaths` tells: before the work, half-way, after it."""

    steps: list[Callable[..., Any]]
    database: Memory
    deaths: list[int] = field(default_factory=list)
    calls: int = 0

    async def post(self, path: str, *, json: Mapping[str, Any], user: str, idempotency_key: str) -> Answer:
        death = self.deaths[self.calls] if self.calls < len(self.deaths) else 9
        self.calls += 1
        for number, step in enumerate(self.steps):
            if death == number:
                raise Killed
            await self.database.write(partial(step, key=idempotency_key, wanted=json))
        if death == len(self.steps):
            raise Killed
        return Answer(201)


def reserve(db: sqlite3.Connection, *, key: str, wanted: Mapping[str, Any]) -> None:
    assert inventory.reserve(db, key=key, item=wanted["item"], quantity=wanted["quantity"])


def begin(db: sqlite3.Connection, *, key: str, wanted: Mapping[str, Any]) -> None:
    payment.begin(db, key=key, order=wanted["order"], amount=wanted["amount"])


def settle(db: sqlite3.Connection, *, key: str, wanted: Mapping[str, Any]) -> None:
    payment.settle(db, key=key)


class Shop:
    def __init__(self, inventory_deaths: list[int], payment_deaths: list[int]) -> None:
        self.orders = Memory([*book.SCHEMA, *schema.MARKS])
        self.inventory = Other([reserve], Memory(inventory.SCHEMA), inventory_deaths)
        self.payment = Other([begin, settle], Memory(payment.SCHEMA), payment_deaths)

    async def buy(self, key: str, quantity: int = 2) -> book.Order:
        wanted = {"key": key, "user": "7", "item": "lamp", "quantity": quantity, "amount": PRICES["lamp"] * quantity}
        order = await self.orders.write(partial(book.begin, **wanted))
        return await finish(order, self.orders, self.inventory, self.payment)  # type: ignore[arg-type]

    def consistent(self, orders: int) -> bool:
        states = book.totals(self.orders.connection)
        paid = payment.totals(self.payment.database.connection)
        stock = inventory.totals(self.inventory.database.connection)["lamp"]
        return (
            states == {"confirmed": {"orders": orders, "amount": orders * 2 * PRICES["lamp"]}}
            and paid["entries"] == paid["orders"] == orders
            and paid["amount"] == states["confirmed"]["amount"]
            and stock["initial"] - stock["left"] == 2 * orders
        )


deaths = st.lists(st.integers(0, 4), max_size=6)


@settings(deadline=None)
@given(inventory_deaths=deaths, payment_deaths=deaths, at_once=st.integers(1, 3))
def test_an_order_that_is_asked_again_until_it_ends_is_paid_once(
    inventory_deaths: list[int], payment_deaths: list[int], at_once: int
) -> None:
    async def story() -> None:
        shop = Shop(inventory_deaths, payment_deaths)
        for _ in range(15):
            found = await asyncio.gather(*(shop.buy("k") for _ in range(at_once)), return_exceptions=True)
            assert all(isinstance(one, (Killed, book.Order)) for one in found), found
        assert {one.state for one in found if isinstance(one, book.Order)} == {"confirmed"}
        assert shop.consistent(orders=1)
        shop.inventory.deaths.clear()
        shop.payment.deaths.clear()
        await shop.buy("another")
        assert shop.consistent(orders=2)

    asyncio.run(story())


def test_what_nobody_asks_for_again_can_be_found_and_finished() -> None:
    async def story() -> None:
        shop = Shop([], [1])
        with pytest.raises(Killed):
            await shop.buy("k")
        (left,) = book.unfinished(shop.orders.connection, older_than_s=-1)
        assert left.state == "reserved"
        assert book.unfinished(shop.orders.connection, older_than_s=60) == []
        await finish(left, shop.orders, shop.inventory, shop.payment)  # type: ignore[arg-type]
        assert book.unfinished(shop.orders.connection, older_than_s=-1) == []
        assert shop.consistent(orders=1)

    asyncio.run(story())


def test_a_key_cannot_be_used_for_something_else() -> None:
    shop = Shop([], [])
    asyncio.run(shop.buy("k", quantity=2))
    with pytest.raises(book.OtherRequest, match="2 x lamp"):
        asyncio.run(shop.buy("k", quantity=3))
    with pytest.raises(Refusal):
        inventory.reserve(
            shop.inventory.database.connection, key=f"{only_order(shop).id}-goods", item="lamp", quantity=9
        )
    with pytest.raises(Refusal):
        payment.begin(shop.payment.database.connection, key=f"{only_order(shop).id}-money", order="x", amount=1)


def only_order(shop: Shop) -> book.Order:
    row = shop.orders.connection.execute("SELECT id FROM orders").fetchone()
    order = book.find(shop.orders.connection, row["id"])
    assert order is not None
    return order


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 400_000)), max_size=20))
def test_stock_never_goes_below_nothing_and_a_verdict_stays(wishes: list[tuple[int, int]]) -> None:
    memory = Memory(inventory.SCHEMA)
    db = memory.connection
    granted: dict[int, tuple[int, bool]] = {}
    for key, quantity in wishes:
        quantity = granted.get(key, (quantity, False))[0]
        verdict = inventory.reserve(db, key=str(key), item="book", quantity=quantity)
        assert granted.setdefault(key, (quantity, verdict)) == (quantity, verdict)
    stock = inventory.totals(db)["book"]
    assert stock["left"] == stock["initial"] - sum(quantity for quantity, yes in granted.values() if yes) >= 0


def test_sold_out_is_a_rejection_that_stays() -> None:
    class SoldOut:
        async def post(self, path: str, **_: Any) -> Answer:
            return Answer(409)

    async def story() -> None:
        shop = Shop([], [])
        shop.inventory = SoldOut()  # type: ignore[assignment]
        for _ in range(2):
            order = await shop.buy("k")
            assert (order.state, order.reason) == ("rejected", "sold out")
        assert shop.payment.calls == 0

    asyncio.run(story())


def test_another_answer_leaves_the_order_at_its_recovery_point() -> None:
    class Broken:
        async def post(self, path: str, **_: Any) -> Answer:
            return Answer(500)

    shop = Shop([], [])
    shop.payment = Broken()  # type: ignore[assignment]
    with pytest.raises(Unfinished, match="payment answered 500"):
        asyncio.run(shop.buy("k"))
    assert only_order(shop).state == "reserved"


async def ask(app: Any, method: str, path: str, body: Any, headers: Mapping[str, str], state: Any) -> tuple[int, Any]:
    """One request on an ASGI app."""
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body if isinstance(body, bytes) else json.dumps(body).encode()}

    async def send(message: Any) -> None:
        said.append(dict(message))

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "state": state,
        "http_version": "1.1",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    return said[0]["status"], json.loads(b"".join(message.get("body", b"") for message in said[1:]))


@pytest.mark.parametrize(
    ("body", "headers", "status", "why"),
    [
        ({"item": "lamp", "quantity": 1}, {}, 400, "idempotency-key is missing"),
        ({"item": "lamp", "quantity": 0}, {"idempotency-key": "k"}, 422, "whole number above 0"),
        ({"item": "lamp", "quantity": True}, {"idempotency-key": "k"}, 422, "whole number above 0"),
        ({"item": "moon", "quantity": 1}, {"idempotency-key": "k"}, 422, "the shop sells book"),
        ({"quantity": 1}, {"idempotency-key": "k"}, 422, "item must be a text"),
        ([], {"idempotency-key": "k"}, 400, "not a JSON object"),
        (b"{", {"idempotency-key": "k"}, 400, "not JSON"),
    ],
)
async def test_wrong_requests_are_refused_in_clear_words(
    body: Any, headers: dict[str, str], status: int, why: str
) -> None:
    from starlette.applications import Starlette

    from shop import orders

    app = Starlette(routes=orders.routes, exception_handlers={Refusal: orders.refused})
    found, said = await ask(app, "POST", "/orders", body, headers, {})
    assert (found, why in said["error"]) == (status, True)
