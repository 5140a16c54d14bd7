"""What a customer is told about an order: with a loyalty bonus, and with a bug that one order in five meets."""

from __future__ import annotations

from typing import Any

from shop.book import Order

TIERS = 5


def receipt(order: Order) -> dict[str, Any]:
    tier = int(order.id, 16) % TIERS
    return {
        "order": order.id,
        "state": order.state,
        "item": order.item,
        "quantity": order.quantity,
        "total": f"{order.amount / 100:.2f} EUR",
        "bonus": order.amount // tier,  # nobody thought of tier 0
    }
