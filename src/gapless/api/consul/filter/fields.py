"""What can be selected. Consul knows the fields of each of its answers; here one list is for all of them, so that a
misspelt name is told although there may be nothing to look at."""

from __future__ import annotations

MAPS = frozenset(
    {"Meta", "NodeMeta", "ServiceMeta", "TaggedAddresses", "ServiceTaggedAddresses", "Header", "Proxy", "ServiceProxy"}
)
"""Keys of these are anybody's."""
_NAMES = """
    Address AliasNode AliasService Body Check CheckID Checks Connect ContentHash CreateIndex Datacenter Definition
    DeregisterCriticalServiceAfter DestinationName EnableTagOverride ExposedPort FailuresBeforeCritical
    FailuresBeforeWarning GRPC GRPCUseTLS HTTP ID Interval Kind Locality Method ModifyIndex Name Namespace Native Node
    Notes Output Partition Passing PeerName Port Region ScriptArgs Service ServiceAddress ServiceConnect
    ServiceEnableTagOverride ServiceID ServiceKind ServiceName ServicePort ServiceTags ServiceWeights Services
    SocketPath Status SuccessBeforePassing TCP TCPUseTLS TLSServerName TLSSkipVerify TTL Tags Timeout Type Warning
    Weights Zone
"""
FIELDS = MAPS | frozenset(_NAMES.split())
