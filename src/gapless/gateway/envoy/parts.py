"""What was made of the services of a table, kept for the next one: of a thousand services one changes at a time.

A service's table is frozen, and the one of before is given again when nothing has changed (`control.table.Tables`), so
that identity tells. What is not known is made: with or without a memory the same comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from itertools import compress, count
from operator import is_not
from typing import Any, TypeVar

from gapless.core.model import Route, RouteTable, ServiceTable
from gapless.gateway.match import candidates

T = TypeVar("T")

Ordered = list[tuple[Route, int]]
"""Routes, each with the place of its service in the table."""


class Parts:
    """Remembers the newest table's services; nothing of what has left."""

    def __init__(self) -> None:
        self._services: tuple[ServiceTable, ...] = ()
        self._known: dict[str, tuple[ServiceTable, dict[Hashable, Any]]] = {}
        self._ordered: dict[str, Ordered] = {}
        self._hosts: list[str] = []
        self._merged: dict[Hashable, tuple[int, dict[str, Any]]] = {}
        """With the number of the table that it is of, as in the next one."""
        self._same: dict[Hashable, Any] = {}
        self._listed: dict[Hashable, tuple[int, Ordered, list[Any]]] = {}
        self._tables = 0
        self._left: list[dict[Hashable, Any]] = []
        """What was made of the services that were other ones, or not in the table any more."""
        self._new: list[ServiceTable] = []
        self._places: list[int] | None = None
        """Where in the table they are, when it has the services of the one before; None: it has others."""

    def begin(self, table: RouteTable) -> None:
        """Another table: forget what is not in it."""
        self._merged = {what: made for what, made in self._merged.items() if made[0] == self._tables}
        self._listed = {what: made for what, made in self._listed.items() if made[0] == self._tables}
        self._tables += 1
        before, self._services = self._services, table.services
        self._places = _replaced(before, table.services)
        if self._places is None:
            self._begin_anew(table)
            return
        self._new = [table.services[place] for place in self._places]
        gone = (self._known.pop(service.service, None) for service in self._new)
        self._left = [known[1] for known in gone if known]
        if any(before[place].routes != table.services[place].routes for place in self._places):
            self._ordered, self._hosts = {}, []

    def _begin_anew(self, table: RouteTable) -> None:
        services = {service.service: service for service in table.services}
        known, self._known, self._left = self._known, {}, []
        self._ordered, self._hosts = {}, []
        for name, (service, made) in known.items():
            if services.get(name) is service:
                self._known[name] = (service, made)
            else:
                self._left.append(made)
        self._new = [service for name, service in services.items() if name not in self._known]

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
        """What `make` makes of all services, in one mapping, which is not to be changed: the very same for the next
        table when that comes to the same."""
        before = self._merged[what][1] if what in self._merged else None
        new = _joined(self.of(service, what, make) for service in (table.services if before is None else self._new))
        if before is None:
            found = new
        else:
            left = _joined(made.get(what, {}) for made in self._left)
            found = before if left == new else {n: made for n, made in before.items() if n not in left} | new
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

    def hosts(self, table: RouteTable) -> list[str]:
        """Those that routes name, and the one for all."""
        if not self._hosts:
            self._hosts = sorted({"*"} | {route.host.lower() for s in table.services for route in s.routes})
        return self._hosts

    def listed(self, table: RouteTable, host: str, what: Hashable, make: Callable[[ServiceTable, Route], T]) -> list[T]:
        """What `make` makes of each route of `ordered`."""
        ordered, key = self.ordered(table, host), (host, what)
        known = self._listed.get(key)
        if known and self._places is not None and known[1] is ordered:
            places, found = set(self._places), list(known[2])
            for n in [n for n, (_, place) in enumerate(ordered) if place in places] if places else ():
                found[n] = make(table.services[ordered[n][1]], ordered[n][0])
        else:
            found = [make(table.services[place], route) for route, place in ordered]
        self._listed[key] = self._tables, ordered, found
        return found


def _replaced(before: tuple[ServiceTable, ...], after: tuple[ServiceTable, ...]) -> list[int] | None:
    """The places of the services that are not the very same; None when the tables are of other services."""
    if len(before) != len(after):
        return None
    places = list(compress(count(), map(is_not, before, after)))
    return places if all(before[place].service == after[place].service for place in places) else None


def _joined(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        found |= part
    return found
