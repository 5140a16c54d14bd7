"""pydantic's errors in the words of `gapless.yaml`: what is wrong, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from gapless.config.base import Settings
from gapless.config.document import Document, Path, Problem
from gapless.config.settings import FileSettings

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_KINDS = {
    "int_parsing": "not a whole number",
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "float_parsing": "not a number",
    "float_type": "not a number",
    "string_type": "not plain text",
    "model_type": "not a mapping (key: value)",
    "dict_type": "not a mapping (key: value)",
    "tuple_type": "not a list",
    "finite_number": "not a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def complaints(error: ValidationError, document: Document) -> Iterator[Problem]:
    """One problem for each thing that pydantic found."""
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        yield document.problem(path, _what(detail, path))


def _what(detail: ErrorDetails, path: Path) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "this key is missing"
    if kind == "too_short":
        return "is empty; name at least one"
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        return f"{value} must be {word} {detail['ctx'][bound]:g}"
    if kind in ("enum", "literal_error"):
        return f"{_shown(value)} is none of {detail['ctx']['expected']}{_meant(str(value), detail['ctx']['expected'])}"
    what = _KINDS.get(kind) or detail["msg"].removeprefix("Value error, ")
    return f"{_shown(value)}: {what}" if _is_plain(value) else what


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _shown(value: Any) -> str:
    return "nothing" if value is None else f'"{value}"'


def _meant(written: str, expected: str) -> str:
    return _suggestion(written, expected.replace(" or ", ", ").replace("'", "").split(", "))


def _unknown_key(path: Path) -> str:
    known = known_keys(path[:-1])
    return f"unknown key{_suggestion(str(path[-1]), known) or '; known here: ' + ', '.join(known)}"


def _suggestion(written: str, known: list[str]) -> str:
    near = difflib.get_close_matches(written, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def known_keys(path: Path) -> list[str]:
    """The keys that the mapping at `path` may have."""
    kind: Any = FileSettings
    for part in path:
        if isinstance(kind, type) and issubclass(kind, Settings):
            kind = _optional(kind.model_fields[str(part)].annotation)
        else:
            kind = next(inner for inner in _flat(get_args(kind)) if issubclass(inner, Settings))
    return list(kind.model_fields)


def _optional(kind: Any) -> Any:
    """The settings in `Settings | None`; anything else as it is."""
    inner = list(_flat(get_args(kind)))
    return inner[0] if NoneType in inner and issubclass(inner[0], Settings) else kind


def _flat(kinds: tuple[Any, ...]) -> Iterator[type]:
    for kind in kinds:
        if isinstance(kind, type):
            yield kind
        else:
            yield from _flat(get_args(kind)[:1])
