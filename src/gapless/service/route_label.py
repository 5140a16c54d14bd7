"""The route that a request took, as a label: the framework's template, of which there are few, never the path."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gapless.service.asgi import Scope

MOST_ROUTES = 200
"""More are together `other`: a path that was taken for a template must not make a series for each client."""
OTHER = "other"

_log = logging.getLogger("gapless.metrics")


def route_of(scope: Scope) -> str:
    """After the app has answered: what Starlette and FastAPI (`route`, and the mounts before it), Litestar
    (`path_template`) or others (`endpoint` and `path_params`) have left in the scope; "" where nobody tells, or nothing
    fitted."""
    route = scope.get("route")
    if route is not None:
        path = getattr(route, "path", "") or ""
        outside = scope.get("app_root_path")
        return path if outside is None or outside == scope["root_path"] else _mounts(scope) + path
    if template := scope.get("path_template"):
        return str(template)
    if "endpoint" not in scope:
        return ""
    params = scope.get("path_params")
    return templated(scope["path"], params) if params else str(scope["path"])


def _mounts(scope: Scope) -> str:
    """The templates of the mounts that led to the route."""
    prefix = scope["root_path"].removeprefix(scope["app_root_path"])
    return templated(prefix, scope.get("path_params") or {}) if prefix else ""


def templated(path: str, params: Mapping[str, Any]) -> str:
    """`/orders/7` with {"id": 7} is `/orders/{id}`."""
    names = {str(value): f"{{{name}}}" for name, value in params.items()}
    for value, name in names.items():
        if "/" in value:
            path = path.replace(value, name, 1)
    return "/".join(names.get(part, part) for part in path.split("/"))


class Routes:
    """Those that were met, up to a bound."""

    def __init__(self, most: int = MOST_ROUTES) -> None:
        self._most = most
        self._known: set[str] = set()
        self._told = False

    def label(self, route: str) -> str:
        """The route itself, or `other` when it is one too many; said once."""
        if route in self._known:
            return route
        if len(self._known) >= self._most:
            if not self._told:
                self._told = True
                text = "more than %d routes: %r and later ones are counted together as route=%r"
                _log.warning(text, self._most, route, OTHER)
            return OTHER
        self._known.add(route)
        return route
