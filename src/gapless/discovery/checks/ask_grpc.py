"""The gRPC check: the standard health service (grpc.health.v1) says SERVING.

Its two messages have one field each, so they are written and read here; the transport is grpcio's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapless.core.grpc_health import GRPC_HEALTH, WHY
from gapless.discovery.catalog.values import Definition, Status
from gapless.discovery.checks.ask import Result

if TYPE_CHECKING:
    import grpc.aio

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
"""A question opens a connection of its own, at once: in the pool of all channels it would wait for the next attempt of
an earlier one that was refused."""
SERVING = b"\x08\x01"
"""Field 1 is 1."""


async def ask_grpc(definition: Definition) -> Result:
    """Raises OSError."""
    try:
        import grpc.aio
    except ImportError:
        return Result(Status.CRITICAL, "gRPC checks need grpcio: pip install 'gapless[grpc]' where the registry runs")
    if definition.grpc_use_tls and definition.tls_skip_verify:
        return Result(Status.CRITICAL, "gRPC checks cannot skip verification: trust the server's CA on this machine")
    target, _, service = definition.grpc.partition("/")
    async with _channel(definition, target) as channel:
        call = channel.unary_unary(GRPC_HEALTH, request_serializer=None, response_deserializer=None)(_request(service))
        try:
            answer = await call
            why = dict(await call.trailing_metadata() or ()).get(WHY, b"").decode(errors="replace")
        except grpc.aio.AioRpcError as error:
            raise OSError(f"gRPC check {definition.grpc}: {error.code().name}: {error.details()}") from error
    said = "SERVING" if answer == SERVING else f"not serving (status {answer[1] if len(answer) > 1 else 0})"
    said = f"{said}: {why}" if why else said
    return Result(Status.PASSING if answer == SERVING else Status.CRITICAL, f"gRPC check {definition.grpc}: {said}")


def _channel(definition: Definition, target: str) -> grpc.aio.Channel:
    import grpc.aio

    if not definition.grpc_use_tls:
        return grpc.aio.insecure_channel(target, options=OPTIONS)
    named = (("grpc.ssl_target_name_override", definition.tls_server_name),) if definition.tls_server_name else ()
    options = (*OPTIONS, *named)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)


def _request(service: str) -> bytes:
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))
