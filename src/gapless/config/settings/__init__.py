"""The keys of `gapless.yaml`: their types, defaults, descriptions, and the values of `core.model` that they make. One
file for each part."""

from __future__ import annotations

from gapless.config.settings.fields import address
from gapless.config.settings.file import FileSettings

__all__ = ["FileSettings", "address"]
