"""Whether an expression is true of JSON data. Where a selector leads through a list, one of its elements is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gapless.api.consul.filter.parse import And, Expression, Match, Not, Or, Selector
from gapless.api.consul.pattern import compiled

Predicate = Callable[[Any], bool]
TRUTHS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)


class FilterMismatch(ValueError):
    """The data is not of a kind that the operator or the value fits."""


def predicate(expression: Expression) -> Predicate:
    """Pure. What it returns raises FilterMismatch."""
    match expression:
        case Match():
            return _match(expression)
        case Not(inner):
            wrong = predicate(inner)
            return lambda data: not wrong(data)
        case And(parts):
            needed = [predicate(part) for part in parts]
            return lambda data: all(one(data) for one in needed)
        case Or(parts):
            enough = [predicate(part) for part in parts]
            return lambda data: any(one(data) for one in enough)


def _match(match: Match) -> Predicate:
    test = _test(match)
    selector = match.selector
    return lambda data: _reached(data, selector, 0, test)


def _reached(data: Any, selector: Selector, depth: int, test: Predicate) -> bool:
    """What is not there is empty."""
    if depth == len(selector):
        return test(data)
    if isinstance(data, list):
        return any(_reached(one, selector, depth, test) for one in data)
    inner = data.get(selector[depth]) if isinstance(data, dict) else None
    return _reached(inner, selector, depth + 1, test)


def _test(match: Match) -> Predicate:
    value = match.value
    match match.operator:
        case "==":
            return lambda data: _equal(data, value)
        case "in":
            return lambda data: _within(data, value)
        case "empty":
            return lambda data: _is_empty(data)
        case _:
            pattern = compiled(value, "Failed to create boolean expression evaluator")
            return lambda data: pattern.search(_string(data, "matches")) is not None


def _equal(data: Any, value: str) -> bool:
    if data is None:
        return value == ""
    if isinstance(data, bool):
        return data is _coerced(TRUTHS.get(value), value, "a bool")
    if isinstance(data, int | float):
        return bool(data == _coerced(_number(value), value, "a number"))
    return _string(data, "==") == value


def _coerced(found: Any, value: str, kind: str) -> Any:
    if found is None:
        raise FilterMismatch(f'the value "{value}" is not {kind}')
    return found


def _number(value: str) -> float | None:
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return None


def _within(data: Any, value: str) -> bool:
    if data is None:
        return False
    if isinstance(data, str | dict):
        return value in data
    if isinstance(data, list):
        return any(isinstance(one, str) and one == value for one in data)
    raise FilterMismatch(f"nothing is in {data!r}: `in` and `contains` are for texts, lists and maps")


def _is_empty(data: Any) -> bool:
    if isinstance(data, bool | int | float):
        raise FilterMismatch(f"{data!r} is neither empty nor not: `is empty` is for texts, lists and maps")
    return not data


def _string(data: Any, operator: str) -> str:
    if data is None:
        return ""
    if not isinstance(data, str):
        kind = "a list" if isinstance(data, list) else "a map" if isinstance(data, dict) else "no text"
        raise FilterMismatch(f"`{operator}` is for texts, and this is {kind}")
    return data
