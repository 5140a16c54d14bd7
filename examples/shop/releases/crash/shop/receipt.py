"""What a customer is told about an order: by means of a package that nobody has installed."""

from __future__ import annotations

from typing import Any

from money_formats import euros  # type: ignore[import-not-found]

from shop.book import Order


def receipt(order: Order) -> dict[str, Any]:
    return {"order": order.id, "state": order.state, "total": euros(order.amount)}
