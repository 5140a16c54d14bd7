"""The standard health service of gRPC, as it is asked and as our own server answers."""

GRPC_HEALTH = "/grpc.health.v1.Health/Check"
"""The method; as a service's `ready_path`: asked for the whole server."""

WHY = "gapless-why-bin"
"""Trailing metadata in which our own server says why it does not serve."""
