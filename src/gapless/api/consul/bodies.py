"""JSON that clients send, into structs, as tolerantly as Consul takes it: keys in any case and with or without
underscores, unknown ones ignored, null as if absent.

What is written exactly as documented is decoded in one step; only the rest takes the long way.
"""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import msgspec

T = TypeVar("T")


class BadBody(Exception):
    """The body is no JSON, or not of the shape that is asked for; says what and where."""


class Body(msgspec.Struct, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """What a body is read into: derive from it, fields in snake_case with a default each. Rename what is not its plain
    PascalCase (`id: str = msgspec.field(default="", name="ID")`)."""


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def read_body(data: bytes, kind: type[T]) -> T:
    """Raises BadBody."""
    if not data:
        raise BadBody("EOF")
    try:
        result: T = _decoder(cast("Any", kind)).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _tolerantly(data, kind)
    return result


def _tolerantly(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.convert(_folded(msgspec.json.decode(data), kind), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(str(error)) from error


def _folded(value: Any, kind: Any) -> Any:
    """The same with the names of the struct's fields, nulls and unknown keys left out. Maps keep their keys."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [one for one in get_args(kind) if one is not NoneType]
        return _folded(value, kinds[0]) if len(kinds) == 1 else value
    if isinstance(value, list) and get_origin(kind) in (list, tuple):
        return [_folded(one, get_args(kind)[0]) for one in value]
    if not isinstance(value, dict):
        return value
    if get_origin(kind) is dict:
        return {key: _folded(one, get_args(kind)[1]) for key, one in value.items() if one is not None}
    return _fields_folded(value, kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else value


def _fields_folded(value: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    names = _names(kind)
    known = ((names.get(fold(key)), one) for key, one in value.items() if one is not None)
    return {field[0]: _folded(one, field[1]) for field, one in known if field is not None}


@cache
def _names(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """Of each field, by its folded name: the name in JSON, and its type."""
    return {fold(field.encode_name): (field.encode_name, field.type) for field in msgspec.structs.fields(kind)}


def fold(name: str) -> str:
    """`ServiceID`, `serviceid`, `service_id`: one key."""
    return name.replace("_", "").lower()
