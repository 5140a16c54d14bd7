"""The steps of a purchase. Each may be repeated, by anybody, at any time: it is done once."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from shop import book
from shop.book import Order
from shop.database import Database


class Answer(Protocol):
    """What a call to another service returns."""

    @property
    def status(self) -> int: ...

    def json(self) -> Any: ...


class Caller(Protocol):
    """Another service: `gapless.Client`, or a fake in a test."""

    async def post(self, path: str, **options: Any) -> Answer:
        """`json`, `user` and `idempotency_key` are given."""
        ...


class Unfinished(Exception):
    """Another service gave no usable answer; the order waits at its recovery point."""


async def finish(order: Order, database: Database, inventory: Caller, payment: Caller) -> Order:
    """Carry an order from its recovery point to its end. Raises Unfinished, or what the clients raise."""
    if order.state == "created":
        order = await _reserve(order, database, inventory)
    if order.state == "reserved":
        order = await _pay(order, database, payment)
    return order


async def _reserve(order: Order, database: Database, inventory: Caller) -> Order:
    answer = await inventory.post(
        "/reservations",
        json={"item": order.item, "quantity": order.quantity},
        user=order.user,
        idempotency_key=f"{order.id}-goods",
    )
    if answer.status == 409:
        return await database.write(partial(book.move, order=order, state="rejected", reason="sold out"))
    if answer.status != 201:
        raise Unfinished(f"inventory answered {answer.status}")
    return await database.write(partial(book.move, order=order, state="reserved"))


async def _pay(order: Order, database: Database, payment: Caller) -> Order:
    answer = await payment.post(
        "/payments",
        json={"order": order.id, "amount": order.amount},
        user=order.user,
        idempotency_key=f"{order.id}-money",
    )
    if answer.status != 201:
        raise Unfinished(f"payment answered {answer.status}")
    return await database.write(partial(book.move, order=order, state="confirmed"))
