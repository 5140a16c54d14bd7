"""The Envoy data plane: `EnvoyGateway` is `core.ports.Traffic` and `core.ports.Metrics`.

Importing this is cheap; grpc and protobuf are imported by `start`.
"""

from __future__ import annotations

from gapless.gateway.envoy.gateway import EnvoyGateway

__all__ = ["EnvoyGateway"]
