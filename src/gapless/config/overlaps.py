"""Routes that cannot both be meant: two services want the same requests and neither route is more exact, or a route
never has a request because another one, tried earlier, takes them all. Pure.

It errs on the side of silence: of two different expressions nobody can say cheaply whether they meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gapless.config.expressions import compiled
from gapless.core.model import Condition, PathKind, Route, ValueKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A route and where it stands."""

    service: str
    index: int
    route: Route
    line: int

    def __str__(self) -> str:
        return f"{self.route} of {self.service} (line {self.line})"


def overlaps(routes: Sequence[Placed]) -> Iterator[tuple[Placed, str]]:
    """Each route that is in another one's way, and what is wrong about it. One complaint for each."""
    ordered = sorted(routes, key=lambda each: (each.route.precedence, each.service, each.index))
    groups: dict[str, list[Placed]] = {}
    for later in ordered:
        if what := next((what for each in _rivals(later, groups) if (what := _conflict(each, later))), ""):
            yield later, what
        groups.setdefault(_group(later.route), []).append(later)


def _group(route: Route) -> str:
    """Only an expression meets other paths than its own."""
    return "" if route.path_kind is PathKind.REGEX else route.path


def _rivals(later: Placed, groups: dict[str, list[Placed]]) -> list[Placed]:
    """The routes that are tried earlier and could be in its way."""
    return [*groups.get("", ()), *(groups.get(later.route.path, ()) if _group(later.route) else ())]


def _conflict(earlier: Placed, later: Placed) -> str:
    if takes_all(earlier.route, later.route):
        return f"never has a request: {earlier} takes them all; remove one, or make that one more exact"
    alike = earlier.service != later.service and earlier.route.precedence == later.route.precedence
    if alike and meet(earlier.route, later.route):
        return (
            f"{earlier} wants some of the same requests, and neither is more exact; "
            "add a condition (host, method, header) to the one that is to go first"
        )
    return ""


def takes_all(earlier: Route, later: Route) -> bool:
    """Whether each request that `later` matches is matched by `earlier`, too."""
    return (
        _host_within(earlier.host, later.host)
        and _path_within(earlier, later)
        and (not earlier.methods or bool(later.methods and set(later.methods) <= set(earlier.methods)))
        and _implied(earlier.headers, later.headers)
        and _implied(earlier.query, later.query)
    )


def meet(one: Route, other: Route) -> bool:
    """Whether some request is matched by both, of two routes with the same precedence."""
    return (
        one.host == other.host
        and (one.path_kind, one.path) == (other.path_kind, other.path)
        and not (one.methods and other.methods and not set(one.methods) & set(other.methods))
        and not _apart(one.headers, other.headers)
        and not _apart(one.query, other.query)
    )


def _host_within(wide: str, narrow: str) -> bool:
    if not wide.startswith("*"):
        return wide == narrow
    return narrow == wide or narrow.endswith(wide[1:]) or wide == "*"


def _path_within(wide: Route, narrow: Route) -> bool:
    if wide.path_kind is PathKind.REGEX:
        return _expression_takes(wide.path, narrow)
    if wide.path_kind is PathKind.EXACT:
        return (narrow.path_kind, narrow.path) == (PathKind.EXACT, wide.path)
    return narrow.path_kind is not PathKind.REGEX and _below(wide.path, narrow.path)


def _below(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")


def _expression_takes(regex: str, narrow: Route) -> bool:
    if narrow.path_kind is PathKind.REGEX:
        return regex in (narrow.path, ".*", "/.*")
    if narrow.path_kind is PathKind.EXACT:
        return compiled(regex).fullmatch(narrow.path) is not None
    head = regex.removesuffix(".*")
    return head != regex and head == re.escape(head) and narrow.path.startswith(head)


def _implied(wanted: tuple[Condition, ...], given: tuple[Condition, ...]) -> bool:
    """Whether whoever meets all of `given` meets all of `wanted`."""
    named = {each.name: each for each in given}
    return all(each.name in named and _follows(each, named[each.name]) for each in wanted)


def _follows(wanted: Condition, given: Condition) -> bool:
    if wanted == given:
        return True
    if given.invert:
        return False
    if wanted.kind is ValueKind.PRESENT:
        return not wanted.invert and given.kind is not ValueKind.PRESENT
    if given.kind is ValueKind.EXACT:
        return _met(wanted, given.value)
    both_prefix = wanted.kind is given.kind is ValueKind.PREFIX
    return both_prefix and not wanted.invert and given.value.startswith(wanted.value)


def _met(condition: Condition, value: str) -> bool:
    if condition.kind is ValueKind.EXACT:
        met = value == condition.value
    elif condition.kind is ValueKind.PREFIX:
        met = value.startswith(condition.value)
    else:
        met = compiled(condition.value).fullmatch(value) is not None
    return met is not condition.invert


def _apart(some: tuple[Condition, ...], others: tuple[Condition, ...]) -> bool:
    """Whether nothing can meet both."""
    named = {each.name: each for each in others}
    return any(each.name in named and _excludes(each, named[each.name]) for each in some)


def _excludes(one: Condition, other: Condition) -> bool:
    if replace(one, invert=not one.invert) == other:
        return True
    for a, b in ((one, other), (other, one)):
        if a.kind is ValueKind.PRESENT and a.invert and not b.invert:
            return True  # absent, and still something
        if a.kind is ValueKind.EXACT and not a.invert and b.kind is not ValueKind.PRESENT:
            return not _met(b, a.value)
    both_prefix = one.kind is other.kind is ValueKind.PREFIX and not one.invert and not other.invert
    return both_prefix and not (one.value.startswith(other.value) or other.value.startswith(one.value))
