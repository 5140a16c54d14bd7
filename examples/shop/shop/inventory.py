"""The inventory service: how many pieces are left, and for whom."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless import Service
from shop.catalogue import INITIAL_STOCK, PRICES
from shop.database import Database, opened, path_of
from shop.web import Refusal, idempotency_key, positive, refused, text, whole

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS stock (
        item TEXT PRIMARY KEY,
        initial INTEGER NOT NULL,
        left_over INTEGER NOT NULL CHECK (left_over >= 0))""",
    """CREATE TABLE IF NOT EXISTS reservations (
        key TEXT PRIMARY KEY,
        item TEXT NOT NULL REFERENCES stock,
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        granted INTEGER NOT NULL)""",
    *(
        f"INSERT INTO stock VALUES ('{item}', {INITIAL_STOCK}, {INITIAL_STOCK}) ON CONFLICT DO NOTHING"
        for item in PRICES
    ),
)


def reserve(db: sqlite3.Connection, *, key: str, item: str, quantity: int) -> bool:
    """Whether the goods are reserved. The first verdict on a key stays: asking again takes nothing more."""
    known = db.execute("SELECT item, quantity, granted FROM reservations WHERE key = ?", (key,)).fetchone()
    if known is not None:
        if (known["item"], known["quantity"]) != (item, quantity):
            raise Refusal(422, f"key {key} was used for {known['quantity']} x {known['item']}")
        return bool(known["granted"])
    taken = db.execute(
        "UPDATE stock SET left_over = left_over - ? WHERE item = ? AND left_over >= ?", (quantity, item, quantity)
    )
    db.execute("INSERT INTO reservations VALUES (?, ?, ?, ?)", (key, item, quantity, taken.rowcount))
    return taken.rowcount == 1


def totals(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """By item: pieces at first, and now."""
    rows = db.execute("SELECT item, initial, left_over FROM stock")
    return {item: {"initial": initial, "left": left} for item, initial, left in rows}


async def create(request: Request) -> Response:
    """POST /reservations {item, quantity}: 201 when the goods are reserved, 409 when there are not enough."""
    wanted = await whole(request)
    item, quantity = text(wanted, "item"), positive(wanted, "quantity")
    if item not in PRICES:
        raise Refusal(422, f"there is no {item!r}")
    act = partial(reserve, key=idempotency_key(request), item=item, quantity=quantity)
    if not await database_of(request).write(act):
        raise Refusal(409, f"there are not {quantity} x {item}")
    return JSONResponse({"item": item, "quantity": quantity}, 201)


async def show(request: Request) -> Response:
    """GET /stock/{item}."""
    item = request.path_params["item"]
    found: dict[str, Any] = await database_of(request).read(totals)
    if item not in found:
        raise Refusal(404, f"there is no {item!r}")
    return JSONResponse({"item": item, **found[item]})


async def ledger(request: Request) -> Response:
    """GET /ledger: pieces at first and now, by item."""
    return JSONResponse(await database_of(request).read(totals))


def database_of(request: Request) -> Database:
    found: Database = request.state.database
    return found


routes = [
    Route("/reservations", create, methods=["POST"]),
    Route("/stock/{item}", show),
    Route("/ledger", ledger),
]
service = Service("inventory", app=Starlette(routes=routes, exception_handlers={Refusal: refused}))
app = service


@service.resource
async def database() -> AsyncIterator[Database]:
    async with opened(path_of("inventory"), SCHEMA) as found:
        yield found


@service.check
async def stock() -> str:
    found = await service.resources["database"].read(totals)
    return f"{len(found)} items"
