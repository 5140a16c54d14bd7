"""The payment service: takes money once for each key."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless import Service
from shop.database import Database, opened, path_of
from shop.web import Refusal, idempotency_key, positive, refused, text, whole

INSTANCE = os.environ.get("GAPLESS_INSTANCE", "")
"""Who we are: noted beside a payment that is under way."""
CARD_S = 0.02
"""The card network's time to answer: long enough that a kill -9 finds payments half-way."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS payments (
        key TEXT PRIMARY KEY,
        order_id TEXT NOT NULL,
        amount INTEGER NOT NULL CHECK (amount > 0),
        state TEXT NOT NULL DEFAULT 'begun' CHECK (state IN ('begun', 'paid')),
        tries INTEGER NOT NULL DEFAULT 0,
        instance TEXT NOT NULL DEFAULT '')""",
    """CREATE TABLE IF NOT EXISTS ledger (
        entry INTEGER PRIMARY KEY AUTOINCREMENT,
        order_id TEXT NOT NULL,
        amount INTEGER NOT NULL,
        at REAL NOT NULL)""",
)
"""Nothing keeps the ledger from holding two entries of one order: that it does not is the code's merit, and checked."""


def begin(db: sqlite3.Connection, *, key: str, order: str, amount: int) -> bool:
    """Note that the money is about to be taken. True when it was taken already."""
    db.execute(
        "INSERT INTO payments (key, order_id, amount) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING",
        (key, order, amount),
    )
    known = db.execute("SELECT order_id, amount, state FROM payments WHERE key = ?", (key,)).fetchone()
    if (known["order_id"], known["amount"]) != (order, amount):
        raise Refusal(422, f"key {key} was used for order {known['order_id']}")
    db.execute("UPDATE payments SET tries = tries + 1, instance = ? WHERE key = ?", (INSTANCE, key))
    return bool(known["state"] == "paid")


def settle(db: sqlite3.Connection, *, key: str) -> bool:
    """Enter the payment into the ledger, unless another try has done it meanwhile."""
    first = db.execute("UPDATE payments SET state = 'paid' WHERE key = ? AND state = 'begun'", (key,)).rowcount == 1
    if first:
        db.execute(
            "INSERT INTO ledger (order_id, amount, at) SELECT order_id, amount, ? FROM payments WHERE key = ?",
            (time.time(), key),
        )
    return first


def totals(db: sqlite3.Connection) -> dict[str, int]:
    """Entries, orders and cents; payments that needed more than one try, and those half-way."""
    entries, orders, amount = db.execute(
        "SELECT count(*), count(DISTINCT order_id), sum(amount) FROM ledger"
    ).fetchone()
    again = db.execute("SELECT count(*) FROM payments WHERE tries > 1").fetchone()[0]
    begun = db.execute("SELECT count(*) FROM payments WHERE state = 'begun'").fetchone()[0]
    return {"entries": entries, "orders": orders, "amount": amount or 0, "tried_again": again, "begun": begun}


async def create(request: Request) -> Response:
    """POST /payments {order, amount}: 201 once the money is taken, however often it is asked."""
    wanted = await whole(request)
    key, order, amount = idempotency_key(request), text(wanted, "order"), positive(wanted, "amount")
    database: Database = request.state.database
    if not await database.write(partial(begin, key=key, order=order, amount=amount)):
        await asyncio.sleep(CARD_S)
        await database.write(partial(settle, key=key))
    return JSONResponse({"order": order, "amount": amount, "state": "paid"}, 201)


async def ledger(request: Request) -> Response:
    """GET /ledger."""
    found: dict[str, Any] = await request.state.database.read(totals)
    return JSONResponse(found)


routes = [Route("/payments", create, methods=["POST"]), Route("/ledger", ledger)]
service = Service("payment", app=Starlette(routes=routes, exception_handlers={Refusal: refused}))
app = service


@service.resource
async def database() -> AsyncIterator[Database]:
    async with opened(path_of("payment"), SCHEMA) as found:
        yield found


@service.check
async def books() -> str:
    found = await service.resources["database"].read(totals)
    return f"{found['entries']} entries"
