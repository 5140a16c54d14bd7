"""What must fit together across keys and services. It looks at the raw document, so that these problems are reported
together with those of single keys; whatever has the wrong shape is left to the settings' types."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gapless.config.document import Document, Problem


def cross_check(document: Document, base: Path) -> list[Problem]:
    """Every problem that concerns more than one key. `base` is the directory of the file."""
    services = _services(document.value)
    found: list[Problem] = []
    for name, service in services.items():
        found += _kind(document, name, service)
        found += _source(document, name, service, base)
    return [*found, *_needs(document, services), *_routes(document, services)]


def _services(value: Any) -> dict[str, dict[str, Any]]:
    services = value.get("services") if isinstance(value, dict) else None
    if not isinstance(services, dict):
        return {}
    return {name: service for name, service in services.items() if isinstance(service, dict)}


def _kind(document: Document, name: str, service: Mapping[str, Any]) -> Iterator[Problem]:
    if "app" in service and "command" in service:
        yield document.problem(("services", name, "command"), "give either app or command, not both")
    if "app" not in service and "command" not in service:
        yield document.problem(
            ("services", name), 'give an app, for instance "shop.orders:app", or a command with {port}'
        )
    if "command" in service and "workers" in service:
        yield document.problem(("services", name, "workers"), "only an app has workers; raise instances instead")


def _source(document: Document, name: str, service: Mapping[str, Any], base: Path) -> Iterator[Problem]:
    source = service.get("source")
    if isinstance(source, str) and not os.path.exists(base / source):
        yield document.problem(("services", name, "source"), f"there is no {base / source} (relative to the file)")


def _needs(document: Document, services: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    graph = {name: _names(service.get("needs")) for name, service in services.items()}
    known = _all_names(document.value)
    for name, needed in graph.items():
        for index, other in enumerate(needed):
            if other not in known:
                what = f'there is no service "{other}"; there are: {", ".join(sorted(known - {name})) or "none"}'
                yield document.problem(("services", name, "needs", index), what)
    for cycle in _cycles(graph):
        way = " → ".join([*cycle, cycle[0]])
        yield document.problem(("services", cycle[0], "needs"), f"these wait for each other: {way}; leave one out")


def _names(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _all_names(value: Any) -> set[str]:
    return set(value["services"]) if isinstance(value, dict) and isinstance(value.get("services"), dict) else set()


def _cycles(graph: Mapping[str, list[str]]) -> list[list[str]]:
    """Each ring of needs once, by depth-first search."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            found.append(way[way.index(name) :])
        elif name in graph and name not in done:
            for other in graph[name]:
                visit(other, [*way, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def _routes(document: Document, services: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    owners: dict[tuple[str, str], str] = {}
    for name, service in services.items():
        routes = service.get("routes")
        for index, route in enumerate(routes if isinstance(routes, list) else []):
            host, path = _route(route)
            owner = owners.setdefault((host, path), f"{name}[{index}]")
            if owner != f"{name}[{index}]":
                what = f'"{path}" for host "{host}" already belongs to {owner.partition("[")[0]}'
                yield document.problem(("services", name, "routes", index), what)


def _route(route: Any) -> tuple[str, str]:
    if isinstance(route, dict):
        return str(route.get("host", "*")).lower(), str(route.get("path", "/"))
    return "*", str(route)
