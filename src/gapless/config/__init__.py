"""Configuration: `gapless.yaml`, and the live settings of a service.

The names below are loaded on first use: a service that reads its own settings needs none of `gapless.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapless.config.base import Settings
    from gapless.config.console import Console
    from gapless.config.file import FILE_NAME, Gateway, System, load, schema
    from gapless.config.live_settings import Live, live
    from gapless.config.registry import Registry
    from gapless.config.restart import NEEDS_RESTART

__all__ = [
    "FILE_NAME",
    "NEEDS_RESTART",
    "Console",
    "Gateway",
    "Live",
    "Registry",
    "Settings",
    "System",
    "live",
    "load",
    "schema",
]

_HOMES = {
    "FILE_NAME": "gapless.config.file",
    "NEEDS_RESTART": "gapless.config.restart",
    "Console": "gapless.config.console",
    "Gateway": "gapless.config.file",
    "Live": "gapless.config.live_settings",
    "Registry": "gapless.config.registry",
    "Settings": "gapless.config.base",
    "System": "gapless.config.file",
    "live": "gapless.config.live_settings",
    "load": "gapless.config.file",
    "schema": "gapless.config.file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gapless.config' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
