"""What a customer is told about an order: with what it costs, and when it comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from shop.book import Order

DELIVERY = timedelta(days=2)


def receipt(order: Order) -> dict[str, Any]:
    delivery = datetime.fromtimestamp(order.created_at, UTC) + DELIVERY
    return {
        "order": order.id,
        "state": order.state,
        "item": order.item,
        "quantity": order.quantity,
        "total": f"{order.amount / 100:.2f} EUR",
        "delivery": delivery.date().isoformat(),
    }
