"""Gapless: Python services that go on answering while everything about them changes.

The names below are loaded on first use, so that `import gapless` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapless.core.errors import GaplessError
    from gapless.service.client import Client
    from gapless.service.kit import Service

__version__ = "0.1.0"
__all__ = ["Client", "GaplessError", "Service", "__version__"]

_HOMES = {
    "Client": "gapless.service.client",
    "GaplessError": "gapless.core.errors",
    "Service": "gapless.service.kit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gapless' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
