"""Gapless: Python services that go on answering while everything about them changes.

The names below are loaded on first use, so that `import gapless` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # known to type checkers; `typing` would take as long to import as all the rest
if TYPE_CHECKING:
    from typing import Any

    from gapless.core.errors import GaplessError
    from gapless.resilience.breaker import breaker
    from gapless.resilience.breaker_window import last
    from gapless.resilience.budget import ratio
    from gapless.resilience.cache import cache
    from gapless.resilience.deadline_layer import deadline
    from gapless.resilience.errors import Rejected, Transient
    from gapless.resilience.fallback import fallback
    from gapless.resilience.guard import guard, idempotent
    from gapless.resilience.hedge import hedge
    from gapless.resilience.limit import limit
    from gapless.resilience.limit_adaptive import adaptive
    from gapless.resilience.rate import rate
    from gapless.resilience.rate_hot import top
    from gapless.resilience.retry_layer import retry
    from gapless.service.client import Client
    from gapless.service.kit import Service

__version__ = "0.1.0"
__all__ = [
    "Client",
    "GaplessError",
    "Rejected",
    "Service",
    "Transient",
    "__version__",
    "adaptive",
    "breaker",
    "cache",
    "deadline",
    "fallback",
    "guard",
    "hedge",
    "idempotent",
    "last",
    "limit",
    "rate",
    "ratio",
    "retry",
    "top",
]

_HOMES = {
    "Client": "gapless.service.client",
    "GaplessError": "gapless.core.errors",
    "Rejected": "gapless.resilience.errors",
    "Service": "gapless.service.kit",
    "Transient": "gapless.resilience.errors",
    "adaptive": "gapless.resilience.limit_adaptive",
    "breaker": "gapless.resilience.breaker",
    "cache": "gapless.resilience.cache",
    "deadline": "gapless.resilience.deadline_layer",
    "fallback": "gapless.resilience.fallback",
    "guard": "gapless.resilience.guard",
    "hedge": "gapless.resilience.hedge",
    "idempotent": "gapless.resilience.guard",
    "last": "gapless.resilience.breaker_window",
    "limit": "gapless.resilience.limit",
    "rate": "gapless.resilience.rate",
    "ratio": "gapless.resilience.budget",
    "retry": "gapless.resilience.retry_layer",
    "top": "gapless.resilience.rate_hot",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gapless' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
