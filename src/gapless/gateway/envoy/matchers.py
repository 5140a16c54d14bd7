"""Routes and tests as Envoy's matchers: a pure mapping."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gapless.core.model import Condition, PathKind, Route, ValueKind
from gapless.core.networks import expression
from gapless.gateway.rules import Source, Test

Json = dict[str, Any]

ADDRESS_HEADER = "x-envoy-external-address"
"""The client's address, set by Envoy itself: what a client sends of that name is overwritten."""


def route_match(route: Route) -> Json:
    """envoy.config.route.v3.RouteMatch; the host is the virtual host's."""
    methods = [_regex(":method", "|".join(map(re.escape, route.methods)))] if route.methods else []
    return {
        **_path(route),
        "headers": [*methods, *map(_header, route.headers)],
        **({"query_parameters": [_parameter(each) for each in route.query]} if route.query else {}),
    }


def _path(route: Route) -> Json:
    """`/orders` is for itself and what is below it, not for `/orders-old`."""
    if route.path_kind is PathKind.EXACT:
        return {"path": route.path}
    if route.path_kind is PathKind.REGEX:
        return {"safe_regex": {"regex": route.path}}
    return {"prefix": route.path} if route.path.endswith("/") else {"path_separated_prefix": route.path}


def _header(condition: Condition) -> Json:
    if condition.kind is ValueKind.PRESENT:
        return {"name": condition.name, "present_match": not condition.invert}
    inverted = {"invert_match": True, "treat_missing_header_as_empty": True} if condition.invert else {}
    return {"name": condition.name, "string_match": _string(condition), **inverted}


def _parameter(condition: Condition) -> Json:
    """envoy.config.route.v3.QueryParameterMatcher, which knows no inversion."""
    if condition.kind is ValueKind.PRESENT:
        return {"name": condition.name, "present_match": True}
    return {"name": condition.name, "string_match": _string(condition)}


def _string(condition: Condition) -> Json:
    if condition.kind is ValueKind.REGEX:
        return {"safe_regex": {"regex": condition.value}}
    return {str(condition.kind): condition.value}


_PASSES: Mapping[Source, Callable[[Test], Json]] = {
    Source.HEADER: lambda test: _one_of(test.name, test.values) if test.values else _not_empty(test.name),
    Source.COOKIE: lambda test: _regex("cookie", cookie(test.name, "|".join(map(re.escape, test.values)) or "[^;]+")),
    Source.ADDRESS: lambda test: _regex(ADDRESS_HEADER, expression(test.values)),
    Source.NUMBER: lambda test: _regex(test.name, "[0-9]{1,19}"),
}


def passes(test: Test) -> Json:
    """envoy.config.route.v3.HeaderMatcher of a rule's test."""
    return _PASSES[test.source](test)


def cookie(name: str, value: str) -> str:
    """An expression over the whole `cookie` header; of several values the last one is captured."""
    return rf"^(?:.*;\s*)?{re.escape(name)}=(?:{value})\s*(?:;.*)?$"


def _one_of(name: str, values: tuple[str, ...]) -> Json:
    if len(values) == 1:
        return {"name": name, "string_match": {"exact": values[0]}}
    return _regex(name, "|".join(map(re.escape, values)))


def _not_empty(name: str) -> Json:
    empty = {"name": name, "string_match": {"exact": ""}}
    return {**empty, "invert_match": True, "treat_missing_header_as_empty": True}


def _regex(name: str, regex: str) -> Json:
    return {"name": name, "string_match": {"safe_regex": {"regex": regex}}}
