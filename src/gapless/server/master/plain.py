"""NamedTuples as plain values for JSON and back, so that the state of one master can be read by the next one, be it of
another version: what the reader does not know is ignored, what the writer did not know gets its default.
"""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_origin, get_type_hints


def to_plain(value: Any) -> Any:
    """NamedTuples become dictionaries, other tuples lists."""
    if isinstance(value, tuple):
        fields = getattr(value, "_asdict", None)
        return {name: to_plain(one) for name, one in fields().items()} if fields else [to_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: to_plain(one) for name, one in value.items()}
    return value


def from_plain(kind: Any, plain: Any) -> Any:
    """The value of that type again. Raises KeyError, TypeError or ValueError where it cannot be one."""
    if hasattr(kind, "_fields"):
        known = _types(kind)
        return kind(**{name: from_plain(known[name], plain[name]) for name in plain if name in known})
    if get_origin(kind) is tuple:
        (inner, *_) = get_args(kind)
        return tuple(from_plain(inner, one) for one in plain)
    if get_origin(kind) is dict:
        key, inner = get_args(kind)
        return {key(name): from_plain(inner, one) for name, one in plain.items()}
    return kind(plain) if isinstance(kind, type) and isinstance(plain, str) else plain


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
