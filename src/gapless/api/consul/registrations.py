"""What clients send to register nodes, services and checks, and the registry's values that it stands for."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, field

from gapless.api.consul.answer import bad_request
from gapless.api.consul.bodies import Body
from gapless.core.duration import format_duration
from gapless.discovery.catalog.values import EQUAL, Check, Definition, Instance, Node, ServiceAddress, Status, Weights

Duration = str | int | float
"""Go's text, or nanoseconds."""


class DefinitionBody(Body):
    """The kinds of checks, as agent and catalog both take them."""

    ttl: Duration = field(default="", name="TTL")
    http: str = field(default="", name="HTTP")
    method: str = ""
    header: dict[str, list[str]] = field(default_factory=dict)
    body: str = ""
    disable_redirects: bool = False
    tls_server_name: str = field(default="", name="TLSServerName")
    tls_skip_verify: bool = field(default=False, name="TLSSkipVerify")
    tcp: str = field(default="", name="TCP")
    tcp_use_tls: bool = field(default=False, name="TCPUseTLS")
    grpc: str = field(default="", name="GRPC")
    grpc_use_tls: bool = field(default=False, name="GRPCUseTLS")
    args: tuple[str, ...] | str = ()
    script_args: tuple[str, ...] | str = ()
    alias_node: str = ""
    alias_service: str = ""
    interval: Duration = ""
    timeout: Duration = ""
    deregister_critical_service_after: Duration = ""
    success_before_passing: int = 0
    failures_before_warning: int = 0
    failures_before_critical: int = 0
    output_max_size: int = 0
    docker_container_id: str = field(default="", name="DockerContainerID")
    udp: str = field(default="", name="UDP")
    h2_ping: str = field(default="", name="H2PING")
    os_service: str = field(default="", name="OSService")


class CheckBody(DefinitionBody):
    """Of an agent: the definition lies in the check."""

    check_id: str = field(default="", name="CheckID")
    id: str = field(default="", name="ID")
    name: str = ""
    notes: str = ""
    status: str = ""
    service_id: str = field(default="", name="ServiceID")


class AddressBody(Body):
    address: str = ""
    port: int = 0


class WeightsBody(Body):
    passing: int = 1
    warning: int = 1


class SidecarBody(Body):
    port: int = 0


class ConnectBody(Body):
    sidecar_service: SidecarBody | None = None


class ServiceBody(Body):
    id: str = field(default="", name="ID")
    name: str = ""
    service: str = ""
    """What the catalog calls its name."""
    tags: tuple[str, ...] = ()
    address: str = ""
    tagged_addresses: dict[str, AddressBody] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    port: int = 0
    weights: WeightsBody | None = None
    enable_tag_override: bool = False
    kind: str = ""
    socket_path: str = ""
    proxy: dict[str, Any] | None = None
    locality: dict[str, Any] | None = None
    connect: ConnectBody | None = None
    check: CheckBody | None = None
    checks: tuple[CheckBody, ...] = ()


class CatalogCheckBody(Body):
    node: str = ""
    check_id: str = field(default="", name="CheckID")
    name: str = ""
    status: str = ""
    notes: str = ""
    output: str = ""
    service_id: str = field(default="", name="ServiceID")
    type: str = ""
    definition: DefinitionBody | None = None


class NodeBody(Body):
    """The whole of a `catalog/register`."""

    datacenter: str = ""
    id: str = field(default="", name="ID")
    node: str = ""
    address: str = ""
    tagged_addresses: dict[str, str] = field(default_factory=dict)
    node_meta: dict[str, str] = field(default_factory=dict)
    service: ServiceBody | None = None
    check: CatalogCheckBody | None = None
    checks: tuple[CatalogCheckBody, ...] = ()
    skip_node_update: bool = False


class RemovalBody(Body):
    """The whole of a `catalog/deregister`."""

    datacenter: str = ""
    node: str = ""
    service_id: str = field(default="", name="ServiceID")
    check_id: str = field(default="", name="CheckID")


class UpdateBody(Body):
    status: str = ""
    output: str = ""


def node_of(body: NodeBody) -> Node:
    return Node(
        name=body.node,
        id=body.id,
        address=body.address,
        datacenter=body.datacenter,
        tagged_addresses=body.tagged_addresses,
        meta=body.node_meta,
    )


def instance_of(body: ServiceBody) -> Instance:
    """Raises Refusal for weights that make no sense."""
    weights = Weights(body.weights.passing, body.weights.warning) if body.weights else EQUAL
    if weights.passing < 1 or weights.warning < 0:
        raise bad_request("Invalid Weights: Passing must be greater than 0, Warning must be greater than or equal 0")
    return Instance(
        service=body.name or body.service,
        id=body.id,
        tags=body.tags,
        address=body.address,
        tagged_addresses={name: ServiceAddress(one.address, one.port) for name, one in body.tagged_addresses.items()},
        meta=body.meta,
        port=body.port,
        weights=weights,
        enable_tag_override=body.enable_tag_override,
        kind=body.kind or UNSET,
        socket_path=body.socket_path or UNSET,
        proxy=body.proxy or UNSET,
        locality=body.locality or UNSET,
    )


def checks_of(body: ServiceBody) -> list[Check]:
    """Raises Refusal."""
    return [check_of(check) for check in (*((body.check,) if body.check else ()), *body.checks)]


def check_of(body: CheckBody) -> Check:
    """Raises Refusal for a kind that is not supported."""
    return Check(
        node="",
        id=body.check_id or body.id,
        name=body.name,
        status=body.status or Status.CRITICAL,
        notes=body.notes,
        service_id=body.service_id,
        definition=definition_of(body),
    )


def catalog_checks_of(body: NodeBody) -> list[Check]:
    """Raises Refusal."""
    return [
        Check(
            node=body.node,
            id=check.check_id,
            name=check.name,
            status=check.status or Status.CRITICAL,
            notes=check.notes,
            output=check.output,
            service_id=check.service_id,
            type=check.type,
            definition=definition_of(check.definition or DefinitionBody()),
        )
        for check in (*((body.check,) if body.check else ()), *body.checks)
    ]


def definition_of(body: DefinitionBody) -> Definition:
    """Raises Refusal for a kind that is not supported."""
    for kind in ("docker_container_id", "udp", "h2_ping", "os_service"):
        if getattr(body, kind):
            raise bad_request(f"Invalid check: {kind} checks are not supported: use HTTP, TCP, GRPC, TTL or Args")
    args = body.args or body.script_args
    return Definition(
        ttl=_duration(body.ttl),
        http=body.http,
        method=body.method,
        header=body.header,
        body=body.body,
        disable_redirects=body.disable_redirects,
        tls_server_name=body.tls_server_name,
        tls_skip_verify=body.tls_skip_verify,
        tcp=body.tcp,
        tcp_use_tls=body.tcp_use_tls,
        grpc=body.grpc,
        grpc_use_tls=body.grpc_use_tls,
        args=(args,) if isinstance(args, str) else args,
        alias_node=body.alias_node,
        alias_service=body.alias_service,
        interval=_duration(body.interval),
        timeout=_duration(body.timeout),
        deregister_after=_duration(body.deregister_critical_service_after),
        success_before_passing=body.success_before_passing,
        failures_before_warning=body.failures_before_warning,
        failures_before_critical=body.failures_before_critical,
        output_max_bytes=body.output_max_size,
    )


def _duration(given: Duration) -> str:
    return given if isinstance(given, str) else format_duration(given / 1e9)
