"""Envoy's messages without generated code: a private descriptor pool, filled from the descriptors that the build keeps.

Private, so that whatever else in the process speaks protobuf (OpenTelemetry, gRPC's own xDS) cannot collide with it.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import msgspec

from gapless.core.errors import GatewayMissing
from gapless.gateway.envoy.delta import Item, Snapshot
from gapless.gateway.envoy.resources import ROUTES, Resources

DESCRIPTORS = Path(__file__).with_name("descriptors.bin.gz")

CACHE_LIMIT = 50_000
"""Messages, some 500 B each. Beyond it the cache starts anew: simpler than an order of use, and seldom reached."""

_ROUTE = "type.googleapis.com/envoy.config.route.v3.Route"


class Messages:
    """Turns dicts in protobuf's JSON form into bytes. ParseDict costs 1 ms per cluster, so that every message is made
    once and found again by its content; a route configuration is put together from routes that were."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._classes: dict[str, Any] = {}
        self._made: dict[tuple[str, bytes], bytes] = {}

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
        key = (type_url, msgspec.json.encode(content))
        data = self._made.get(key)
        if data is None:
            build = self._routes if type_url == ROUTES else self._parse
            if len(self._made) >= CACHE_LIMIT:
                self._made.clear()
            data = self._made[key] = build(type_url, content).SerializeToString(deterministic=True)
        return data

    def snapshot(self, resources: Resources) -> Snapshot:
        """Every resource with a version that is its content's."""
        return Snapshot(
            {
                type_url: {name: self._item(type_url, content) for name, content in named.items()}
                for type_url, named in resources.by_type.items()
            }
        )

    def _item(self, type_url: str, content: dict[str, Any]) -> Item:
        data = self.serialize(type_url, content)
        return Item(hashlib.blake2b(data, digest_size=8).hexdigest(), data)

    def _parse(self, type_url: str, content: dict[str, Any]) -> Any:
        from google.protobuf import json_format

        message = self.message(type_url.rpartition("/")[2])()
        try:
            return json_format.ParseDict(content, message, descriptor_pool=self._pool)
        except json_format.ParseError as error:
            raise ValueError(f"{type_url}: {error}") from error

    def _routes(self, type_url: str, content: dict[str, Any]) -> Any:
        hosts = content["virtual_hosts"]
        bare = {**content, "virtual_hosts": [{**host, "routes": []} for host in hosts]}
        message = self._parse(type_url, bare)
        for virtual_host, host in zip(message.virtual_hosts, hosts, strict=True):
            for route in host["routes"]:
                virtual_host.routes.add().MergeFromString(self.serialize(_ROUTE, route))
        return message


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
