"""What a customer is told about an order: with what it costs."""

from __future__ import annotations

from typing import Any

from shop.book import Order


def receipt(order: Order) -> dict[str, Any]:
    return {
        "order": order.id,
        "state": order.state,
        "item": order.item,
        "quantity": order.quantity,
        "total": f"{order.amount / 100:.2f} EUR",
    }
