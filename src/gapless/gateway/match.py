"""Which service a request belongs to: what every data plane's routes must amount to."""

from __future__ import annotations

from gapless.core.model import Route, RouteTable, ServiceTable


def covers(pattern: str, host: str) -> bool:
    """Whether a route for `pattern` (`*`, `*.example.com` or a name) also answers for `host`; case means nothing."""
    pattern, host = pattern.lower(), host.lower()
    if pattern.startswith("*"):
        return host.endswith(pattern[1:])
    return host == pattern


def below(prefix: str, path: str) -> bool:
    """Whether `path` (without query) is `prefix` or below it: `/orders` is not for `/orders-old`."""
    return path.startswith(prefix if prefix.endswith("/") else prefix + "/") or path == prefix


def precedence(found: tuple[Route, ServiceTable]) -> tuple[int, int, str]:
    """Sort key: the longest path first, then the most specific host, then the service's name."""
    route, service = found
    return -len(route.path), -len(route.host.lstrip("*")), service.service


def candidates(table: RouteTable, host: str) -> list[tuple[Route, ServiceTable]]:
    """All routes that answer for a host, in the order in which they are tried."""
    found = [(route, s) for s in table.services for route in s.routes if covers(route.host, host)]
    return sorted(found, key=precedence)


def service_of(table: RouteTable, host: str, path: str) -> ServiceTable | None:
    """The service that a request belongs to."""
    return next((service for route, service in candidates(table, host) if below(route.path, path)), None)
