"""Asks an instance how it is: by HTTP, TCP, gRPC's health service, or a command. Nothing is raised: whatever goes wrong
is the answer.

Each question opens a connection of its own: one that is kept would go on when nobody new gets through any more.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import NamedTuple

from gapless.core.duration import parse_duration
from gapless.core.ports import World
from gapless.discovery.catalog.definitions import kind_of
from gapless.discovery.catalog.values import OUTPUT_BYTES, Definition, Status, cut

TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 30.0
"""As Consul's; a check's own `Timeout` goes before them."""


class Result(NamedTuple):
    status: str
    output: str


Ask = Callable[[Definition], Awaitable[Result]]


class Asker:
    """All ways of asking. `commands`: whether the operator lets checks run commands here."""

    def __init__(self, world: World, *, commands: bool = False) -> None:
        self._world, self._commands = world, commands

    async def __call__(self, definition: Definition) -> Result:
        kind = kind_of(definition)
        ways: Mapping[str, Callable[[Definition], Awaitable[Result]]] = {
            "http": self._http,
            "tcp": self._tcp,
            "grpc": self._grpc,
            "script": self._command,
        }
        limit_s = timeout_s(definition)
        try:
            async with asyncio.timeout(limit_s):
                status, output = await ways[kind](definition)
        except TimeoutError:
            return Result(Status.CRITICAL, f"no answer within {limit_s:g} s")
        except Exception as error:  # noqa: BLE001 - said in the check's output, where people look for it
            return Result(Status.CRITICAL, cut(f"{type(error).__name__}: {error}"))
        return Result(status, cut(output, min(definition.output_max_bytes or OUTPUT_BYTES, OUTPUT_BYTES)))

    async def _http(self, definition: Definition) -> Result:
        from gapless.discovery.checks.ask_http import ask_http

        return await ask_http(definition, self.tls(definition))

    async def _tcp(self, definition: Definition) -> Result:
        host, port = place_of(definition.tcp)
        context = self.tls(definition) if definition.tcp_use_tls else None
        name = (definition.tls_server_name or host) if context else None
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
        writer.close()
        return Result(Status.PASSING, f"TCP connect {definition.tcp}: Success")

    async def _grpc(self, definition: Definition) -> Result:
        from gapless.discovery.checks.ask_grpc import ask_grpc

        return await ask_grpc(definition)

    async def _command(self, definition: Definition) -> Result:
        from gapless.discovery.checks.ask_command import ask_command

        if not self._commands:
            return Result(Status.CRITICAL, "commands are not allowed here: the registry was started without them")
        return await ask_command(definition, self._world)

    def tls(self, definition: Definition) -> ssl.SSLContext:
        return self._trusting if definition.tls_skip_verify else self._verifying

    # A context reads all certificates of the machine: once is enough.

    @cached_property
    def _verifying(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    @cached_property
    def _trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def timeout_s(definition: Definition) -> float:
    """How long an answer is waited for."""
    if definition.timeout and (given := parse_duration(definition.timeout)) > 0:
        return given
    return COMMAND_TIMEOUT_S if definition.args else TIMEOUT_S


def place_of(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[::1]:port`. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)
