"""The registry's rows as Consul's JSON: joined from the fragments that the store keeps, which are encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gapless.api.consul.answer import encode
from gapless.discovery.catalog.values import CheckRow, Found, InstanceRow, NodeRow

NULL = b"null"
NO_TAGGED = b'"TaggedAddresses":{},'
"""It cannot stand within a text, whose quotes are escaped."""


def indexed(row: NodeRow | InstanceRow | CheckRow) -> bytes:
    """The row with its two indexes."""
    return b'%b,"CreateIndex":%d,"ModifyIndex":%d}' % (row.raw[:-1], row.created, row.revision)


def array(fragments: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(fragments)


def mapping(fragments: Mapping[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (encode(name), fragment) for name, fragment in fragments.items())


def health(found: Found) -> bytes:
    """An entry of `health/service`."""
    node = indexed(found.node) if found.node else NULL
    return b'{"Node":%b,"Service":%b,"Checks":%b}' % (node, indexed(found.row), array(map(indexed, found.checks)))


def local(row: InstanceRow, datacenter: str) -> bytes:
    """An entry of `agent/services`, which has tagged addresses only where there are some."""
    raw = row.raw if row.instance.tagged_addresses else row.raw.replace(NO_TAGGED, b"", 1)
    return b'%b,"Datacenter":%b}' % (raw[:-1], encode(datacenter))


def flat(found: Found) -> bytes:
    """An entry of `catalog/service`."""
    node, instance = found.node, found.instance
    shown = node.node if node else None
    return encode(
        {
            "ID": shown.id if shown else "",
            "Node": found.row.node,
            "Address": shown.address if shown else "",
            "Datacenter": shown.datacenter if shown else "",
            "TaggedAddresses": shown.tagged_addresses if shown else {},
            "NodeMeta": shown.meta if shown else {},
            "ServiceKind": instance.kind or "",
            "ServiceID": instance.id,
            "ServiceName": instance.service,
            "ServiceTags": instance.tags,
            "ServiceAddress": instance.address,
            "ServiceTaggedAddresses": instance.tagged_addresses,
            "ServiceWeights": instance.weights,
            "ServiceMeta": instance.meta,
            "ServicePort": instance.port,
            "ServiceSocketPath": instance.socket_path or "",
            "ServiceEnableTagOverride": instance.enable_tag_override,
            "ServiceProxy": instance.proxy or {},
            "ServiceConnect": {},
            "ServiceLocality": instance.locality or None,
            "CreateIndex": found.row.created,
            "ModifyIndex": found.row.revision,
        }
    )


def check_without_index(row: CheckRow) -> bytes:
    """An entry of `agent/checks`."""
    return b'%b,"CreateIndex":0,"ModifyIndex":0}' % row.raw[:-1]
