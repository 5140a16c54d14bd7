"""Which service a request belongs to: what every data plane's routes must amount to.

Routes are tried in the order of `Route.precedence`; where that is equal, by the service's name, then as they stand in
gapless.yaml, which refuses routes of two services that are equal and want the same requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gapless.config.expressions import compiled
from gapless.core.model import Condition, PathKind, Route, RouteTable, ServiceTable, ValueKind

_WITH_PORT = re.compile(r"(\[.*\]|[^:]*):\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is known of a request. Names of headers are lower case, and each has one value.
    `path` has its query; `address` is the client's, by the hops that are trusted."""

    path: str = "/"
    host: str = "localhost"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"

    @property
    def query(self) -> dict[str, str]:
        """Each parameter's first value, as it came: nothing is decoded."""
        parts = [part.partition("=") for part in self.path.partition("?")[2].split("&") if part]
        return {name: value for name, _, value in reversed(parts)}

    def cookies(self, name: str) -> list[str]:
        """The values of a cookie, as they came: a browser may hold one for each path."""
        parts = [part.lstrip() for part in self.headers.get("cookie", "").split(";")]
        return [part[len(name) + 1 :] for part in parts if part.startswith(f"{name}=") and len(part) > len(name) + 1]


def covers(pattern: str, host: str) -> bool:
    """Whether a route for `pattern` (`*`, `*.example.com` or a name) also answers for `host`; case means nothing."""
    pattern, host = pattern.lower(), host.lower()
    if pattern.startswith("*"):
        return host.endswith(pattern[1:]) and (pattern == "*" or len(host) >= len(pattern))
    return host == pattern


def without_port(host: str) -> str:
    """`[::1]:80` → `[::1]`."""
    found = _WITH_PORT.fullmatch(host)
    return found[1] if found else host


def below(prefix: str, path: str) -> bool:
    """Whether `path` (without query) is `prefix` or below it: `/orders` is not for `/orders-old`."""
    return path.startswith(prefix if prefix.endswith("/") else prefix + "/") or path == prefix


def candidates(table: RouteTable, host: str) -> list[tuple[Route, ServiceTable]]:
    """All routes that answer for a host, in the order in which they are tried."""
    found = [(route, s) for s in table.services for route in s.routes if covers(route.host, host)]
    return sorted(found, key=lambda each: (each[0].precedence, each[1].service))


def matching(table: RouteTable, request: Request) -> tuple[Route, ServiceTable] | None:
    """The route that has the request, and its service."""
    found = candidates(table, without_port(request.host))
    return next(((route, service) for route, service in found if not mismatch(route, request)), None)


def mismatch(route: Route, request: Request) -> str:
    """Why a route does not match a request, in words; empty when it does."""
    if not covers(route.host, without_port(request.host)):
        return f"the host is {request.host}"
    if not _path_fits(route, request.path.partition("?")[0]):
        return f"the path is {request.path.partition('?')[0]}"
    if route.methods and request.method not in route.methods:
        return f"the method is {request.method}"
    for condition in route.headers:
        if why := _unmet(condition, request.headers.get(condition.name), "header"):
            return why
    query = request.query if route.query else {}
    return next((why for each in route.query if (why := _unmet(each, query.get(each.name), "parameter"))), "")


def _path_fits(route: Route, path: str) -> bool:
    if route.path_kind is PathKind.PREFIX:
        return below(route.path, path)
    if route.path_kind is PathKind.EXACT:
        return path == route.path
    return compiled(route.path).fullmatch(path) is not None


_VALUES: Mapping[ValueKind, Callable[[str, str], bool]] = {
    ValueKind.EXACT: lambda wanted, value: value == wanted,
    ValueKind.PREFIX: lambda wanted, value: value.startswith(wanted),
    ValueKind.REGEX: lambda wanted, value: compiled(wanted).fullmatch(value) is not None,
}


def _unmet(condition: Condition, value: str | None, what: str) -> str:
    """Why it does not hold, in words."""
    if condition.kind is ValueKind.PRESENT:
        met = (value is not None) is not condition.invert
    elif value is None and not condition.invert:
        met = False
    else:
        met = _VALUES[condition.kind](condition.value, value or "") is not condition.invert
    shown = "is absent" if value is None else f"is {value!r}"
    return "" if met else f"the {what} {condition.name} {shown}"
