"""What was made of the services of a table, kept for the next one: of a thousand services one changes at a time.

A service's table is frozen, and the one of before is given again when nothing has changed (`control.table.Tables`), so
that identity tells. What is not known is made: with or without a memory the same comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from gapless.core.model import Route, RouteTable, ServiceTable
from gapless.gateway.match import candidates

T = TypeVar("T")

Ordered = list[tuple[Route, int]]
"""Routes, each with the place of its service in the table."""


class Parts:
    """Remembers the newest table's services; nothing of what has left."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ServiceTable, dict[Hashable, Any]]] = {}
        self._routes: list[tuple[Route, ...]] = []
        self._ordered: dict[str, Ordered] = {}
        self._merged: dict[Hashable, tuple[int, dict[str, Any]]] = {}
        """With the number of the table that it is of."""
        self._same: dict[Hashable, Any] = {}
        self._tables = 0
        self._left: list[dict[Hashable, Any]] = []
        """What was made of the services that were other ones, or not in the table any more."""
        self._new: list[ServiceTable] = []

    def begin(self, table: RouteTable) -> None:
        """Another table: forget what is not in it."""
        self._merged = {what: made for what, made in self._merged.items() if made[0] == self._tables}
        self._tables += 1
        services = {service.service: service for service in table.services}
        known, self._known, self._left = self._known, {}, []
        for name, (service, made) in known.items():
            if services.get(name) is service:
                self._known[name] = (service, made)
            else:
                self._left.append(made)
        self._new = [service for name, service in services.items() if name not in self._known]
        routes = [service.routes for service in table.services]
        if routes != self._routes:
            self._routes, self._ordered = routes, {}

    def of(self, service: ServiceTable, what: Hashable, make: Callable[[ServiceTable], T]) -> T:
        """What `make` makes of a service, once for each `what`."""
        known = self._known.get(service.service)
        if known is None or known[0] is not service:
            known = self._known[service.service] = (service, {})
        found = known[1]
        if what not in found:
            found[what] = make(service)
        made: T = found[what]
        return made

    def merged(
        self, table: RouteTable, what: Hashable, make: Callable[[ServiceTable], dict[str, Any]]
    ) -> dict[str, Any]:
        """What `make` makes of all services, in one mapping, which is not to be changed."""
        before = self._merged[what][1] if what in self._merged else None
        found: dict[str, Any] = dict(before) if before is not None else {}
        for made in self._left if before is not None else ():
            for name in made.get(what, ()):
                found.pop(name, None)
        for service in self._new if before is not None else table.services:
            found |= self.of(service, what, make)
        self._merged[what] = self._tables, found
        return found

    def same(self, what: Hashable, made: T) -> T:
        """The very one of before when it equals it, so that identity tells whoever makes something of it."""
        known: T | None = self._same.get(what)
        if known == made and known is not None:
            return known
        self._same[what] = made
        return made

    def ordered(self, table: RouteTable, host: str) -> Ordered:
        """`match.candidates`: which depends on the routes alone."""
        found = self._ordered.get(host)
        if found is None:
            place = {id(service): n for n, service in enumerate(table.services)}
            found = self._ordered[host] = [(route, place[id(s)]) for route, s in candidates(table, host)]
        return found
