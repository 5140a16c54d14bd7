"""What the shop sells."""

from __future__ import annotations

PRICES = {"book": 1250, "lamp": 3990, "chair": 8900, "table": 24900}
"""Price of one piece in cents."""

INITIAL_STOCK = 1_000_000
"""Pieces of each item when the shop opens: a demonstration must not be over because it is sold out."""
