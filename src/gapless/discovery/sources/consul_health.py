"""What is asked of `/v1/health/service/…` of Consul's HTTP API, and what its answers say. Pure.

A blocking query names the index that its caller knows, and is answered when that has moved on or the wait is over. The
rules for the index are those of Consul's documentation ("Blocking Queries"): what goes back stands for a registry that
has lost its memory, so that everything is asked anew; what is not above zero counts as one, or the caller would spin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from gapless.core.errors import DiscoveryLost
from gapless.core.model import Address, Endpoint
from gapless.discovery.sources.source import endpoint_of

WAIT_S = 60
"""How long a query blocks at most: shorter than the idle limits of what may lie between (load balancers: 60 s and
more, the agent adds a sixteenth), long beside the cost of asking again."""
PAUSE_S = 0.1
"""From one query to the next at least. A change after a quiet time is told at once; a registry whose index moves all
the time (consul#2216) is asked ten times a second, not ten thousand."""


class Options(NamedTuple):
    """What narrows the instances down."""

    datacenter: str = ""
    tags: tuple[str, ...] = ()


EVERYTHING = Options()


def target(service: str, index: int, options: Options) -> str:
    """The path and query of the next question. Index 0 asks for an answer at once."""
    query = [("tag", tag) for tag in options.tags]
    if options.datacenter:
        query.append(("dc", options.datacenter))
    if index:
        query += [("index", str(index)), ("wait", f"{WAIT_S}s")]
    more = f"&{urlencode(query)}" if query else ""
    return f"/v1/health/service/{quote(service, safe='')}?passing=1{more}"


def next_index(asked: int, told: str) -> int:
    """The index to name next; 0 = begin anew."""
    index = max(int(told), 1) if told.isascii() and told.isdigit() else 1
    return 0 if index < asked else index


class _Node(msgspec.Struct, rename="pascal"):
    address: str = ""
    meta: Mapping[str, str] | None = None


class _Weights(msgspec.Struct, rename="pascal"):
    passing: float = 1.0


class _Service(msgspec.Struct):
    id: str = msgspec.field(name="ID")
    port: int = msgspec.field(name="Port", default=0)
    address: str = msgspec.field(name="Address", default="")
    meta: Mapping[str, str] | None = msgspec.field(name="Meta", default=None)
    weights: _Weights | None = msgspec.field(name="Weights", default=None)


class _Found(msgspec.Struct, rename="pascal"):
    node: _Node
    service: _Service


_decoder = msgspec.json.Decoder(list[_Found])


def endpoints_of(body: bytes) -> tuple[Endpoint, ...]:
    """Those that an answer names, each address once, without those that have no port. Raises DiscoveryLost for what is
    no such answer."""
    try:
        found = _decoder.decode(body or b"[]")
    except msgspec.MsgspecError as error:
        raise DiscoveryLost(f"the registry's answer is not a list of instances: {error}") from error
    by_address: dict[Address, Endpoint] = {}
    for each in found:
        if each.service.port > 0:
            endpoint = _endpoint(each)
            by_address.setdefault(endpoint.address, endpoint)
    return tuple(by_address.values())


def _endpoint(found: _Found) -> Endpoint:
    node, service = found.node, found.service
    meta = {**(node.meta or {}), **(service.meta or {})}
    registered = service.weights.passing if service.weights else 1.0
    return endpoint_of(service.id, service.address or node.address, service.port, meta, registered)
