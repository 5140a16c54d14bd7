"""From a path to its handlers: exact paths, and prefixes that leave a rest (a key, a name, an id). Two look-ups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from gapless.api.consul.answer import Answer
from gapless.api.consul.request import Request

Handler = Callable[[Request], Awaitable[Answer]]


class Route(NamedTuple):
    """`methods`: handlers by method; HEAD goes to GET. `path` ends in "/" where a rest follows (`Request.rest`, which
    may be empty); "/" alone is exact."""

    path: str
    methods: Mapping[str, Handler]

    @property
    def allowed(self) -> str:
        """For the Allow header."""
        return ",".join(["OPTIONS", *sorted(self.methods)])


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        """Raises ValueError when two have the same path."""
        self._exact: dict[str, Route] = {}
        self._prefixes: dict[str, Route] = {}
        for route in routes:
            into = self._prefixes if route.path.endswith("/") and len(route.path) > 1 else self._exact
            if route.path in into:
                raise ValueError(f"two routes have the path {route.path}")
            into[route.path] = route
        depths = {path.count("/") for path in self._prefixes}
        self._depths = sorted(depths, reverse=True)

    def find(self, path: str) -> tuple[Route, str] | None:
        """The route, longest path first, and the rest."""
        if (exact := self._exact.get(path)) is not None:
            return exact, ""
        slashes = _slashes(path, self._depths[0] if self._depths else 0)
        for depth in self._depths:
            if depth <= len(slashes):
                end = slashes[depth - 1] + 1
                if (route := self._prefixes.get(path[:end])) is not None:
                    return route, path[end:]
        return None


def _slashes(path: str, most: int) -> list[int]:
    """Where the first of them are."""
    found: list[int] = []
    at = -1
    while len(found) < most and (at := path.find("/", at + 1)) >= 0:
        found.append(at)
    return found
