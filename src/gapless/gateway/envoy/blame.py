"""Which routes a refusal is about: Envoy says what is wrong, and seldom where. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gapless.core.model import Route, RouteTable

MOST = 3
"""Routes that are named."""


def blamed(text: str, table: RouteTable, before: RouteTable | None) -> str:
    """The routes that Envoy's words quote, or else those that the table in force has not; for people."""
    routes = [(s.service, route) for s in table.services for route in s.routes]
    known = {(s.service, route) for s in before.services for route in s.routes} if before else set()
    new = [each for each in routes if each not in known]
    quoted = [each for each in new or routes if any(value in text for value in _values(each[1]))]
    found = [f"{route} of {service}" for service, route in quoted or new]
    if not found:
        return ""
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"; it is about {'one of ' if len(found) > 1 else ''}{', '.join(found[:MOST])}{more}"


def _values(route: Route) -> Iterator[str]:
    """What of a route Envoy may quote; a single sign says nothing."""
    values = [route.path, *(each.value for each in (*route.headers, *route.query))]
    return (value for value in values if len(value) > 1)
