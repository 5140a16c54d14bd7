"""Model values to the store's bytes and back: JSON, because people read it with other tools and other versions.

Fields that a reader does not know are ignored and absent ones take their default, so that two versions of Gapless can
share a store while one replaces the other.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from gapless.core.errors import StoreBroken

T = TypeVar("T")


def encode(value: Any) -> bytes:
    """A model value (or plain JSON-like data) as JSON."""
    return msgspec.json.encode(value)


def decode(data: bytes | str, kind: type[T]) -> T:
    """The value again, checked against its type. Raises StoreBroken with the place that does not fit."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreBroken(f"stored {kind.__name__} does not fit: {error}") from error
