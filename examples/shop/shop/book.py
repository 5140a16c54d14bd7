"""The book of orders. Every function is one transaction's worth of SQL on the orders database.

An order goes `created → reserved → confirmed`, or ends `rejected`. Each state is a recovery point: whoever finds an
order half-way, because the instance that carried it was killed, carries on from there.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from dataclasses import dataclass

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS orders (
        id TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        user TEXT NOT NULL,
        item TEXT NOT NULL,
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        amount INTEGER NOT NULL,
        state TEXT NOT NULL DEFAULT 'created' CHECK (state IN ('created', 'reserved', 'confirmed', 'rejected')),
        reason TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL,
        UNIQUE (user, key))""",
    "CREATE INDEX IF NOT EXISTS unfinished ON orders (created_at) WHERE state IN ('created', 'reserved')",
)
ENDED = ("confirmed", "rejected")


class OtherRequest(Exception):
    """The idempotency key was used before, for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`amount` is in cents. `key` is the customer's idempotency key."""

    id: str
    key: str
    user: str
    item: str
    quantity: int
    amount: int
    state: str
    reason: str
    created_at: float


def begin(db: sqlite3.Connection, *, key: str, user: str, item: str, quantity: int, amount: int) -> Order:
    """The order of this key: a new one, or the one that an earlier try began. Raises OtherRequest."""
    db.execute(
        "INSERT INTO orders (id, key, user, item, quantity, amount, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (user, key) DO NOTHING",
        (uuid.uuid4().hex, key, user, item, quantity, amount, time.time()),
    )
    order = _order(db.execute("SELECT * FROM orders WHERE user = ? AND key = ?", (user, key)).fetchone())
    assert order is not None
    if (order.item, order.quantity) != (item, quantity):
        raise OtherRequest(f"key {key} was used for {order.quantity} x {order.item}")
    return order


def move(db: sqlite3.Connection, order: Order, state: str, reason: str = "") -> Order:
    """The order in its next state, or where another try has brought it meanwhile: nothing moves backwards."""
    db.execute(
        "UPDATE orders SET state = ?, reason = ? WHERE id = ? AND state = ?", (state, reason, order.id, order.state)
    )
    moved = find(db, order.id)
    assert moved is not None
    return moved


def find(db: sqlite3.Connection, order: str) -> Order | None:
    return _order(db.execute("SELECT * FROM orders WHERE id = ?", (order,)).fetchone())


def unfinished(db: sqlite3.Connection, older_than_s: float, limit: int = 100) -> list[Order]:
    """Orders that somebody left half-way, the oldest first."""
    rows = db.execute(
        "SELECT * FROM orders WHERE state IN ('created', 'reserved') AND created_at < ? ORDER BY created_at LIMIT ?",
        (time.time() - older_than_s, limit),
    )
    return [order for row in rows if (order := _order(row))]


def totals(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """By state: how many orders, and their cents."""
    rows = db.execute("SELECT state, count(*), sum(amount) FROM orders GROUP BY state")
    return {state: {"orders": count, "amount": amount} for state, count, amount in rows}


def _order(row: sqlite3.Row | None) -> Order | None:
    return None if row is None else Order(**dict(row))
