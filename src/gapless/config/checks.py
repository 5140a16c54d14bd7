"""What must fit together across keys and services. It looks at the raw document, so that these problems are reported
together with those of single keys; whatever has the wrong shape is left to the settings' types."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gapless.config.document import Document, Problem
from gapless.config.overlaps import Placed, overlaps
from gapless.config.settings.fields import address
from gapless.config.settings.network import NetworkSettings
from gapless.config.settings.routes import RouteSettings, as_route
from gapless.core.grpc_health import GRPC_HEALTH
from gapless.core.model import Route


def cross_check(document: Document, base: Path) -> list[Problem]:
    """Every problem that concerns more than one key. `base` is the directory of the file."""
    services = _services(document.value)
    found: list[Problem] = []
    for name, service in services.items():
        found += _kind(document, name, service)
        found += _grpc(document, name, service)
        found += _source(document, name, service, base)
        found += _mirror(document, name, service)
    told = [*_told_of(document), *_reach(document)]
    return [*found, *_needs(document, services), *_routes(document, services), *told]


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
    if "command" in service and "access_log" in service:
        yield document.problem(("services", name, "access_log"), "a command logs its requests by itself, if at all")
    rollout = service.get("rollout")
    judged_by = rollout.get("judged_by") if isinstance(rollout, dict) else None
    if "command" in service and not service.get("routes") and judged_by == "requests":
        what = "nobody counts the requests of a command without routes; write health, or give it routes"
        yield document.problem(("services", name, "rollout", "judged_by"), what)


def _grpc(document: Document, name: str, service: Mapping[str, Any]) -> Iterator[Problem]:
    """What is only there for HTTP."""
    if service.get("protocol") != "grpc":
        return
    if service.get("ready", "") not in ("", GRPC_HEALTH):
        what = f'a gRPC server is asked by its health service: write {GRPC_HEALTH}, or "" for an open port'
        yield document.problem(("services", name, "ready"), what)
    rollout = service.get("rollout")
    if not isinstance(rollout, dict):
        return
    if rollout.get("mirror"):
        yield document.problem(
            ("services", name, "rollout", "mirror"), "only answers of HTTP are mirrored; leave it out"
        )
    for index, gate in enumerate(gates if isinstance(gates := rollout.get("gates"), list) else ()):
        for kind in ("smoke", "contract"):
            if isinstance(gate, dict) and kind in gate:
                what = f"{kind} asks by HTTP, and this service speaks gRPC; write a gate by command"
                yield document.problem(("services", name, "rollout", "gates", index, kind), what)


def _source(document: Document, name: str, service: Mapping[str, Any], base: Path) -> Iterator[Problem]:
    source = service.get("source")
    if isinstance(source, str) and not os.path.exists(base / source):
        yield document.problem(("services", name, "source"), f"there is no {base / source} (relative to the file)")


def _mirror(document: Document, name: str, service: Mapping[str, Any]) -> Iterator[Problem]:
    rollout = service.get("rollout")
    if isinstance(rollout, dict) and rollout.get("mirror") and not service.get("routes"):
        what = "only the gateway mirrors requests, and it leads none to a service without routes"
        yield document.problem(("services", name, "rollout", "mirror"), what)


def _reach(document: Document) -> Iterator[Problem]:
    """Gateways on other machines, and instances that only this one reaches. What is wrong alone is told elsewhere."""
    gateway, network = (_mapping(document.value, key) for key in ("gateway", "network"))
    with suppress(ValueError, ValidationError):
        listen = address(_mapping(gateway, "xds").get("listen"))
        host = NetworkSettings.model_validate(network).value().advertise
        if ip_address(host).is_loopback and not ip_address(listen.host).is_loopback:
            what = (
                f"gateways on other machines cannot reach instances on {host}; set network.bind, or listen on 127.0.0.1"
            )
            yield document.problem(("gateway", "xds", "listen"), what)


def _mapping(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


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


def _told_of(document: Document) -> Iterator[Problem]:
    """Alert rules and routes of notices that speak of services which are not there."""
    known = _all_names(document.value)
    for path, names in [*_named(document.value, "alerts", "rules"), *_named(document.value, "notify", "routes")]:
        for index, other in enumerate(names):
            if other not in known:
                what = f'there is no service "{other}"; there are: {", ".join(sorted(known)) or "none"}'
                yield document.problem((*path, "services", index), what)


def _named(value: Any, part: str, inner: str) -> Iterator[tuple[tuple[str | int, ...], list[str]]]:
    """What each rule or route names as its services, and where that stands."""
    found = value.get(part) if isinstance(value, dict) else None
    each = found.get(inner) if isinstance(found, dict) else None
    items = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
    for key, item in items:
        if isinstance(item, dict):
            yield (part, inner, key), _names(item.get("services"))


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
    """Of those that are valid by themselves."""
    placed = [
        Placed(service=name, index=index, route=route, line=document.line(("services", name, "routes", index)))
        for name, service in services.items()
        for index, raw in enumerate(_items(service.get("routes")))
        if (route := _route(raw))
    ]
    for found, what in overlaps(placed):
        yield document.problem(("services", found.service, "routes", found.index), what)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _route(raw: Any) -> Route | None:
    try:
        return RouteSettings.model_validate(as_route(raw)).value()
    except ValidationError:
        return None
