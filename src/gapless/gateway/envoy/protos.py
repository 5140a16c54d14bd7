"""Envoy's messages without generated code: a private descriptor pool, filled from the descriptors that the build keeps.

Private, so that whatever else in the process speaks protobuf (OpenTelemetry, gRPC's own xDS) cannot collide with it.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from gapless.core.errors import GatewayMissing
from gapless.gateway.envoy.delta import Item, Snapshot
from gapless.gateway.envoy.faults import LAYER as FAULTS
from gapless.gateway.envoy.resources import ROUTES, RUNTIME, Resources
from gapless.gateway.envoy.weights import LAYER as WEIGHTS
from gapless.gateway.envoy.weights import Weights, is_drawn, weighed

DESCRIPTORS = Path(__file__).with_name("descriptors.bin.gz")

CACHE_LIMIT = 50_000
"""Messages, some 500 B each. Beyond it the cache starts anew: simpler than an order of use, and seldom reached."""

_ROUTE = "type.googleapis.com/envoy.config.route.v3.Route"
_HOST = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
_CONFIGURATION = ROUTES + "#"
"""The key of a bare configuration in the cache."""
_LAYER = RUNTIME + "#"
_HOSTS, _HOST_ROUTES = 2, 3
"""Numbers of the fields `virtual_hosts` and `routes`."""

_Chunk = tuple[dict[str, Any], bytes, bool]
"""A route, the same as a field of a virtual host, and whether it is drawn by weights, which it is without."""


class Messages:
    """Turns dicts in protobuf's JSON form into bytes. ParseDict costs 1 ms per cluster, so that every message is made
    once and found again by its content; a route configuration is put together from routes that were, and weights from
    those of each service."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._classes: dict[str, Any] = {}
        self._made: dict[tuple[str, bytes], bytes] = {}
        self._newest: dict[tuple[str, str], tuple[Mapping[str, Any], dict[str, Item]]] = {}
        """Of the newest snapshot, by type and variant: contents and items. Most contents come again, the very same."""
        self._chunks: dict[int, _Chunk] = {}

    def message(self, full_name: str) -> Any:
        """The message class, such as `envoy.service.discovery.v3.DeltaDiscoveryRequest`."""
        found = self._classes.get(full_name)
        if found is None:
            from google.protobuf import message_factory

            found = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(full_name))
            self._classes[full_name] = found
        return found

    def serialize(self, type_url: str, content: dict[str, Any]) -> bytes:
        """The message's bytes; the same content gives the same bytes. Raises ValueError for a field that does not exist
        or does not fit, with its name."""
        if type_url == ROUTES:
            return self._routes(content)
        if type_url == RUNTIME:
            return self._runtime(content)
        key = (type_url, msgspec.json.encode(content))
        data = self._made.get(key)
        if data is None:
            if len(self._made) >= CACHE_LIMIT:
                self._made.clear()
            data = self._made[key] = self._parse(type_url, content).SerializeToString(deterministic=True)
        return data

    def snapshot(self, resources: Resources) -> Snapshot:
        """Every resource with a version that is its content's, and for what is forgotten also its moment's."""
        by_type: dict[str, Mapping[str, Item]] = {}
        for type_url, named in resources.by_type.items():
            by_type[type_url] = self.items(type_url, named, resources.until_at)
        by_type[ROUTES] = self._weighed(resources, by_type)
        return Snapshot(by_type)

    def items(
        self, type_url: str, named: Mapping[str, Any], until_at: float = 0.0, variant: str = ""
    ) -> dict[str, Item]:
        """Resources of one type. `until_at`: when the faults among them end. `variant`: of what else than the usual
        ones these are the newest."""
        before, items = self._newest.get((type_url, variant), ({}, {}))
        if before is named:
            return items
        items = {name: item for name, item in items.items() if name in named}
        for name in [name for name, content in named.items() if before.get(name) is not content]:
            items[name] = self._item(type_url, named[name], until_at if name == FAULTS else 0.0)
        self._newest[type_url, variant] = named, items
        return items

    def _weighed(self, resources: Resources, by_type: Mapping[str, Mapping[str, Item]]) -> Mapping[str, Item]:
        """The routes with the weights that are drawn by. Their bytes are made when they are sent, which is seldom."""
        frames, weights = by_type[ROUTES], resources[RUNTIME][WEIGHTS]["layer"]
        if not weights:
            return frames
        found: dict[str, Item] = {}
        for name, content in resources[ROUTES].items():
            frame = frames[name].version + "-"
            version = frame + by_type[RUNTIME][WEIGHTS].version
            found[name] = Item(version, partial(self._routes, content, weights), frame=frame)
        return found

    def _item(self, type_url: str, content: dict[str, Any], until_at: float) -> Item:
        data = self.serialize(type_url, content)
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        return Item(f"{digest}-{until_at:.3f}" if until_at else digest, data, until_at)

    def _parse(self, type_url: str, content: dict[str, Any]) -> Any:
        from google.protobuf import json_format

        message = self.message(type_url.rpartition("/")[2].rstrip("#"))()
        try:
            return json_format.ParseDict(content, message, descriptor_pool=self._pool)
        except json_format.ParseError as error:
            raise ValueError(f"{type_url}: {error}") from error

    def _runtime(self, content: dict[str, Any]) -> bytes:
        """Put together from the layer's values: parts of a message one after the other are the message (protobuf's
        encoding), also of one that is a field of it."""
        layer = content["layer"]
        parts = [self.serialize(_LAYER, {"layer": {key: layer[key]}}) for key in sorted(layer)]
        return self.serialize(_LAYER, {"name": content["name"], "layer": {}}) + b"".join(parts)

    def _routes(self, content: dict[str, Any], weights: Weights | None = None) -> bytes:
        """Put together from bytes: a message is its fields one after the other, in any order, and a repeated field is
        each of its values with the tag and the length before it (protobuf's encoding). With `weights`, in all routes
        that are drawn by them."""
        chunks: dict[int, _Chunk] = {}
        hosts = b"".join(_field(_HOSTS, self._host(host, chunks, weights)) for host in content["virtual_hosts"])
        self._chunks = chunks
        return self.serialize(_CONFIGURATION, {**content, "virtual_hosts": []}) + hosts

    def _host(self, host: dict[str, Any], chunks: dict[int, _Chunk], weights: Weights | None) -> bytes:
        parts = [self.serialize(_HOST, {**host, "routes": []})]
        for route in host["routes"]:
            known = chunks.get(id(route)) or self._chunks.get(id(route))
            if known is None or known[0] is not route:
                known = route, self._route(route), is_drawn(route)
            chunks[id(route)] = known
            parts.append(self._route(weighed(route, weights)) if weights and known[2] else known[1])
        return b"".join(parts)

    def _route(self, route: dict[str, Any]) -> bytes:
        return _field(_HOST_ROUTES, self.serialize(_ROUTE, route))


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes: tag, length, content."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Seven bits in a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def load_messages(path: Path = DESCRIPTORS) -> Messages:
    """Reads the descriptors (40 ms). Raises GatewayMissing when protobuf or the descriptors are not installed."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool

        files = descriptor_pb2.FileDescriptorSet.FromString(gzip.decompress(path.read_bytes()))
    except ImportError as error:
        raise GatewayMissing(f"the gateway's packages are not installed: {error}") from error
    except FileNotFoundError as error:
        raise GatewayMissing(
            f"{path.name} is missing: this is a source tree that was never built",
            "pip install -e '.[gateway]' in the source tree makes it.",
        ) from error
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return Messages(pool)
