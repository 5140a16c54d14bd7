"""The shop's own books after the day: three databases of three services that must tell the same story."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SHOWN = 3
"""So many examples of one kind of disagreement are enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the three databases hold. `orders`: (id, key, item, quantity, amount, state); `entries`: (order, amount);
    `stock`: item → (initial, left)."""

    orders: tuple[tuple[str, str, str, int, int, str], ...]
    entries: tuple[tuple[str, int], ...]
    stock: dict[str, tuple[int, int]]
    tried_again: int = 0
    """Payments that needed more than one try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """`wrong` is empty when the books agree."""

    confirmed: int
    paid: int
    amount: int
    tried_again: int
    wrong: tuple[str, ...]


def read(data: Path) -> Books:
    """The books as they are now."""
    with _open(data / "orders.db") as db:
        orders = tuple(db.execute("SELECT id, key, item, quantity, amount, state FROM orders"))
    with _open(data / "payment.db") as db:
        entries = tuple(db.execute("SELECT order_id, amount FROM ledger"))
        (tried_again,) = db.execute("SELECT count(*) FROM payments WHERE tries > 1").fetchone()
    with _open(data / "inventory.db") as db:
        stock = {item: (initial, left) for item, initial, left in db.execute("SELECT * FROM stock")}
    return Books(orders=orders, entries=entries, stock=stock, tried_again=tried_again)


def unfinished(data: Path) -> int:
    """Orders that are half-way."""
    with _open(data / "orders.db") as db:
        return int(db.execute("SELECT count(*) FROM orders WHERE state IN ('created', 'reserved')").fetchone()[0])


def half_way(data: Path, instance: str) -> int:
    """Payments that an instance has begun and not ended."""
    with _open(data / "payment.db") as db:
        half = "SELECT count(*) FROM payments WHERE state = 'begun' AND instance = ?"
        return int(db.execute(half, (instance,)).fetchone()[0])


def audit(books: Books, told: Collection[str]) -> Audit:
    """`told`: the idempotency keys of all purchases that customers were told are confirmed."""
    confirmed = {order[0]: order for order in books.orders if order[5] == "confirmed"}
    wrong = [
        *_some("confirmed, but never paid", _unpaid(books, confirmed)),
        *_some("paid more than once", [order for order, times in _times(books).items() if times > 1]),
        *_some("paid, but not confirmed", [order for order, _ in books.entries if order not in confirmed]),
        *_some("paid with another amount", _misprised(books, confirmed)),
        *_some("the customer was told of it, but it is not confirmed", _untrue(books, told)),
        *_some("ordered twice with one key", _doubled(books)),
        *_some("half-way", [order[0] for order in books.orders if order[5] in ("created", "reserved")]),
        *_stock(books),
    ]
    return Audit(
        confirmed=len(confirmed),
        paid=len(books.entries),
        amount=sum(amount for _, amount in books.entries),
        tried_again=books.tried_again,
        wrong=tuple(wrong),
    )


def _times(books: Books) -> Counter[str]:
    return Counter(order for order, _ in books.entries)


def _unpaid(books: Books, confirmed: Collection[str]) -> list[str]:
    return sorted(set(confirmed) - {order for order, _ in books.entries})


def _misprised(books: Books, confirmed: dict[str, tuple[str, str, str, int, int, str]]) -> list[str]:
    return [order for order, amount in books.entries if order in confirmed and confirmed[order][4] != amount]


def _untrue(books: Books, told: Collection[str]) -> list[str]:
    return sorted(set(told) - {order[1] for order in books.orders if order[5] == "confirmed"})


def _doubled(books: Books) -> list[str]:
    return [key for key, times in Counter(order[1] for order in books.orders).items() if times > 1]


def _stock(books: Books) -> Iterator[str]:
    sold: Counter[str] = Counter()
    for _, _, item, quantity, _, state in books.orders:
        sold[item] += quantity if state == "confirmed" else 0
    for item, (initial, left) in sorted(books.stock.items()):
        if initial - left != sold[item]:
            yield f"{item}: {initial - left} left the shelf, but {sold[item]} were sold"


def _some(what: str, which: list[str]) -> Iterator[str]:
    if which:
        more = f" and {len(which) - SHOWN} more" if len(which) > SHOWN else ""
        yield f"{len(which)} {what}: {', '.join(which[:SHOWN])}{more}"


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: did the shop ever open?")
    connection = sqlite3.connect(path, timeout=5.0)
    try:
        yield connection
    finally:
        connection.close()
