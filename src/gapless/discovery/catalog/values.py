"""What the registry holds: nodes, instances of services, and checks, as Consul's HTTP API shows them.

The names in JSON are Consul's, so that what the store keeps is at the same time the fragment that answers are joined
from. In Python they are ours: an instance has an `id` and belongs to a `service`. The values are frozen, and small:
ten thousand of them live in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field, structs

SERF_HEALTH = "serfHealth"
"""The check of an agent's own node: it is there, so it is well."""
NODE_MAINTENANCE = "_node_maintenance"
SERVICE_MAINTENANCE = "_service_maintenance:"
WITNESSES = "gapless:witnesses:"
"""Both are followed by the instance's id. The latter is critical while a quorum of its callers complains."""

OUTPUT_BYTES = 4096
"""A check's output is cut to this: it is kept in memory, written at each change, and read by people."""

Whole = Annotated[int, Meta(ge=0)]


class Status(StrEnum):
    """How a check stands, and how an instance does: the worst of its checks and its node's."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


WORSE: Mapping[str, int] = MappingProxyType({Status.PASSING: 0, Status.WARNING: 1, Status.CRITICAL: 2})


class Weights(Struct, frozen=True, gc=False, rename="pascal"):
    """The instance's share beside the others' while it passes, and while it warns."""

    passing: Whole = 1
    warning: Whole = 1


class ServiceAddress(Struct, frozen=True, gc=False, rename="pascal"):
    address: str = ""
    port: int = 0


EQUAL = Weights()


class Node(Struct, frozen=True, gc=False):
    """A machine, or whatever else instances are on."""

    name: str = field(name="Node")
    id: str = field(name="ID", default="")
    address: str = field(name="Address", default="")
    datacenter: str = field(name="Datacenter", default="")
    tagged_addresses: dict[str, str] = field(name="TaggedAddresses", default_factory=dict)
    meta: dict[str, str] = field(name="Meta", default_factory=dict)


class Instance(Struct, frozen=True, gc=False):
    """One running copy of a service. `address` may be empty: then it is its node's."""

    service: str = field(name="Service")
    id: str = field(name="ID", default="")
    """Unique on its node."""
    tags: tuple[str, ...] = field(name="Tags", default=())
    address: str = field(name="Address", default="")
    tagged_addresses: dict[str, ServiceAddress] = field(name="TaggedAddresses", default_factory=dict)
    meta: dict[str, str] = field(name="Meta", default_factory=dict)
    """`version` and `zone` are read by our own clients."""
    port: int = field(name="Port", default=0)
    weights: Weights = field(name="Weights", default=EQUAL)
    enable_tag_override: bool = field(name="EnableTagOverride", default=False)
    # What a service mesh makes of an instance is kept and shown, and means nothing here.
    kind: str | UnsetType = field(name="Kind", default=UNSET)
    socket_path: str | UnsetType = field(name="SocketPath", default=UNSET)
    proxy: dict[str, Any] | UnsetType = field(name="Proxy", default=UNSET)
    locality: dict[str, Any] | UnsetType = field(name="Locality", default=UNSET)


class Definition(Struct, frozen=True, gc=False, omit_defaults=True):
    """How a check comes to its status: one of the kinds below, and nothing for a check that others update. Durations
    are Go's, as they were given (`core.duration`)."""

    ttl: str = field(name="TTL", default="")
    http: str = field(name="HTTP", default="")
    method: str = field(name="Method", default="")
    header: dict[str, list[str]] = field(name="Header", default_factory=dict)
    body: str = field(name="Body", default="")
    disable_redirects: bool = field(name="DisableRedirects", default=False)
    tls_server_name: str = field(name="TLSServerName", default="")
    tls_skip_verify: bool = field(name="TLSSkipVerify", default=False)
    tcp: str = field(name="TCP", default="")
    tcp_use_tls: bool = field(name="TCPUseTLS", default=False)
    grpc: str = field(name="GRPC", default="")
    """`host:port/service`; without a service the server's own health is asked."""
    grpc_use_tls: bool = field(name="GRPCUseTLS", default=False)
    args: tuple[str, ...] = field(name="ScriptArgs", default=())
    alias_node: str = field(name="AliasNode", default="")
    alias_service: str = field(name="AliasService", default="")
    """The id of the instance whose status is taken over."""
    interval: str = field(name="Interval", default="")
    timeout: str = field(name="Timeout", default="")
    deregister_after: str = field(name="DeregisterCriticalServiceAfter", default="")
    success_before_passing: int = field(name="SuccessBeforePassing", default=0)
    failures_before_warning: int = field(name="FailuresBeforeWarning", default=0)
    failures_before_critical: int = field(name="FailuresBeforeCritical", default=0)
    output_max_bytes: int = field(name="OutputMaxSize", default=0)


BY_OTHERS = Definition()


class Check(Struct, frozen=True, gc=False):
    """A check of an instance, or, without `service_id`, of its node."""

    node: str = field(name="Node")
    id: str = field(name="CheckID")
    name: str = field(name="Name", default="")
    status: str = field(name="Status", default=Status.CRITICAL)
    notes: str = field(name="Notes", default="")
    output: str = field(name="Output", default="")
    service_id: str = field(name="ServiceID", default="")
    service: str = field(name="ServiceName", default="")
    service_tags: tuple[str, ...] = field(name="ServiceTags", default=())
    type: str = field(name="Type", default="")
    definition: Definition = field(name="Definition", default=BY_OTHERS)


class NodeRow(Struct, frozen=True, gc=False):
    """A node as it stands in the store. `raw` is its JSON without the two indexes."""

    node: Node
    raw: bytes
    created: int
    revision: int


class InstanceRow(Struct, frozen=True, gc=False):
    """An instance as it stands in the store, and the name of its node."""

    node: str
    instance: Instance
    raw: bytes
    created: int
    revision: int


class Sunk(Struct, frozen=True, gc=False):
    """An instance whose weight has sunk: the row as it was registered, and the revision of what was said of it."""

    stored: InstanceRow
    share: float
    revision: int

    @property
    def shown(self) -> InstanceRow:
        """The instance with what is left of its weight, which is a whole number, and not 0 while it is found at all;
        the exact one is in the metadata, as our own clients read it."""
        instance = self.stored.instance
        passing = instance.weights.passing
        left = Weights(max(1, round(passing * self.share)), instance.weights.warning)
        exact = f"{_number(instance.meta.get('weight', ''), passing) * self.share:g}"
        sunk = structs.replace(instance, weights=left, meta={**instance.meta, "weight": exact})
        revision = max(self.stored.revision, self.revision)
        return structs.replace(self.stored, instance=sunk, raw=encoded(sunk), revision=revision)


class CheckRow(Struct, frozen=True, gc=False):
    check: Check
    raw: bytes
    created: int
    revision: int


class Found(Struct, frozen=True, gc=False):
    """An instance with all that its health depends on: `checks` are its node's and its own."""

    node: NodeRow | None
    """None in the moment between its node's removal and its own, and for nobody else."""
    row: InstanceRow
    checks: tuple[CheckRow, ...]

    @property
    def instance(self) -> Instance:
        return self.row.instance

    @property
    def address(self) -> str:
        """Where it can be asked."""
        return self.row.instance.address or (self.node.node.address if self.node else "")

    @property
    def status(self) -> str:
        return worst(self.checks)


def worst(checks: tuple[CheckRow, ...]) -> str:
    """The status that counts when several checks speak."""
    return max((row.check.status for row in checks), key=badness, default=Status.PASSING)


def badness(status: str) -> int:
    """0 for passing, 2 for critical and for whatever nobody here knows."""
    return WORSE.get(status, 2)


def _number(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise


def encoded(value: Node | Instance | Check | float) -> bytes:
    """What the store keeps."""
    return msgspec.json.encode(value)


def cut(output: str, most_bytes: int = OUTPUT_BYTES) -> str:
    """At most so many bytes in UTF-8, no character cut in two."""
    raw = output.encode(errors="replace")
    return output if len(raw) <= most_bytes else raw[:most_bytes].decode(errors="ignore")
