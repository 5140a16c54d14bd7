"""The orders service: what customers talk to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless import GaplessError, Service
from shop import book, schema
from shop.catalogue import PRICES
from shop.database import Database, opened, path_of
from shop.purchase import Unfinished, finish
from shop.receipt import receipt
from shop.web import Refusal, idempotency_key, positive, refused, text, whole

LEFT_S = 5.0
"""An order that is unfinished for so long was left behind by an instance that was killed, or by a customer who gave up
while another service was away; requests end sooner."""
LOOK_EVERY_S = 1.0

_log = logging.getLogger("shop.orders")


async def create(request: Request) -> Response:
    """POST /orders {item, quantity}: buy. With the same key again: the same order, carried on if need be."""
    wanted = await whole(request)
    item, quantity = text(wanted, "item"), positive(wanted, "quantity")
    if item not in PRICES:
        raise Refusal(422, f"there is no {item!r}: the shop sells {', '.join(PRICES)}")
    begin = partial(
        book.begin,
        key=idempotency_key(request),
        user=request.headers.get("x-user-id", "anonymous"),
        item=item,
        quantity=quantity,
        amount=PRICES[item] * quantity,
    )
    try:
        order = await database_of(request).write(begin)
        order = await finish(order, database_of(request), service.client("inventory"), service.client("payment"))
    except book.OtherRequest as error:
        raise Refusal(422, str(error)) from error
    except (Unfinished, GaplessError) as error:
        _log.warning("an order is left at its recovery point: %s", error)
        raise Refusal(503, f"the order could not be finished now: {error}; ask again with the same key") from error
    if order.state == "rejected":
        raise Refusal(409, order.reason)
    return JSONResponse(receipt(order), 201)


async def show(request: Request) -> Response:
    """GET /orders/{id}."""
    order = await database_of(request).read(partial(book.find, order=request.path_params["order"]))
    if order is None:
        raise Refusal(404, "there is no such order")
    return JSONResponse(receipt(order))


async def ledger(request: Request) -> Response:
    """GET /ledger: orders and cents by state."""
    return JSONResponse(await database_of(request).read(book.totals))


def database_of(request: Request) -> Database:
    found: Database = request.state.database
    return found


routes = [
    Route("/orders", create, methods=["POST"]),
    Route("/orders/{order}", show),
    Route("/ledger", ledger),
]
service = Service("orders", app=Starlette(routes=routes, exception_handlers={Refusal: refused}))
app = service


@service.resource
async def database() -> AsyncIterator[Database]:
    async with opened(path_of("orders"), (*book.SCHEMA, *schema.MARKS)) as found:
        yield found


@service.check
async def schema_version() -> str:
    """Code and data fit together; a new release whose migration nobody has run must not get a single request."""
    found = await service.resources["database"].read(schema.version_of)
    if found != schema.VERSION:
        raise RuntimeError(f"orders.db has schema {found}, this release needs {schema.VERSION}: migrate it first")
    return f"schema {found}"


@service.task
async def finish_what_was_left() -> None:
    """Half-way orders whose customer never asks again: their goods are reserved, so they are finished."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        database = service.resources["database"]
        for order in await database.read(partial(book.unfinished, older_than_s=LEFT_S)):
            try:
                ended = await finish(order, database, service.client("inventory"), service.client("payment"))
            except (Unfinished, GaplessError) as error:
                _log.warning("order %s stays %s: %s", order.id, order.state, error)
            else:
                _log.info("order %s had been left %s and is %s now", order.id, order.state, ended.state)
