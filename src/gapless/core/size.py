"""Sizes as people write them."""

from __future__ import annotations

from gapless.core.errors import ConfigError

_UNITS = (
    ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("KB", 10**3), ("MB", 10**6), ("GB", 10**9), ("B", 1), ("", 1)
)  # fmt: skip


def size(text: str, option: str) -> int:
    """Bytes of `512MB`, `2GiB` or a number of them; 0 of an empty text. Raises ConfigError, naming the option."""
    unit, factor = next((unit, factor) for unit, factor in _UNITS if text.endswith(unit))
    number = text.removesuffix(unit).strip()
    if text and not number.isdecimal():
        raise ConfigError(f"{option} {text!r} is no size", 'Write for instance "512MB" or "2GiB".')
    return int(number or 0) * factor
