"""pydantic's errors in our words: what is wrong, and what would be right. For `gapless.yaml` and any other model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from gapless.config.document import Document, Path, Problem
from gapless.config.types import is_model, reach

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Worded = tuple[Path, str]


def never(path: Path) -> bool:
    """Nothing is hidden."""
    return False


_KINDS = {
    "int_parsing": "not a whole number",
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "float_parsing": "not a number",
    "float_type": "not a number",
    "string_type": "not plain text",
    "bool_parsing": "neither true nor false",
    "bool_type": "neither true nor false",
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


def complaints(
    error: ValidationError, document: Document, kind: type[BaseModel], hidden: Callable[[Path], bool] = never
) -> Iterator[Problem]:
    """One problem for each thing that pydantic found in a document that should be a `kind`."""
    for path, what in worded(error, kind, hidden):
        yield document.problem(path, what)


def worded(error: ValidationError, kind: type[BaseModel], hidden: Callable[[Path], bool] = never) -> Iterator[Worded]:
    """Each thing that pydantic found: its path, and a sentence. What is `hidden` is not shown."""
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        yield path, _what(detail, path, kind, "a secret" if hidden(path) else "")


def _what(detail: ErrorDetails, path: Path, model: type[BaseModel], instead: str) -> str:
    kind, value = detail["type"], detail["input"]
    shown = instead or (_shown(value) if _is_plain(value) else "")
    if kind == "extra_forbidden":
        return _unknown_key(path, model)
    if kind == "missing":
        return "this key is missing"
    if kind == "too_short":
        return "is empty; name at least one"
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        return f"{instead or value} must be {word} {_number(detail['ctx'][bound])}"
    if kind in ("enum", "literal_error"):
        meant = "" if instead else _meant(str(value), detail["ctx"]["expected"])
        return f"{shown or value} is none of {detail['ctx']['expected']}{meant}"
    what = _KINDS.get(kind) or detail["msg"].removeprefix("Value error, ")
    return f"{shown}: {what}" if shown else what


def _number(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, (int, float)) else str(bound)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _shown(value: Any) -> str:
    return "nothing" if value is None else f'"{value}"'


def _meant(written: str, expected: str) -> str:
    return _suggestion(written, expected.replace(" or ", ", ").replace("'", "").split(", "))


def _unknown_key(path: Path, model: type[BaseModel]) -> str:
    known = known_keys(path[:-1], model)
    near = _suggestion(str(path[-1]), known)
    return f"unknown key{near or ('; known here: ' + ', '.join(known) if known else '')}"


def _suggestion(written: str, known: list[str]) -> str:
    near = difflib.get_close_matches(written, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def known_keys(path: Path, kind: Any) -> list[str]:
    """The keys that the mapping at `path` of a `kind` may have; empty where any key may be."""
    found = [each for each in reach(kind, path) if is_model(each)]
    return [field.alias or name for name, field in found[0].model_fields.items()] if found else []
