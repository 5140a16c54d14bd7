"""A gRPC channel to each instance, and whether somebody is there before a call is given to it.

So it is known which calls have reached nobody: gRPC itself says UNAVAILABLE of those and of the lost alike. Needs
grpcio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import grpc

from gapless.core.model import Address
from gapless.core.ports import World
from gapless.resilience.deadline import within
from gapless.service.transport import CONNECT_S, Unsent

GRACE_S = 30.0
"""What was begun on a channel may end within it: as long as instances drain."""
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a channel that is made anew connects at once, whatever failed before
    ("grpc.enable_http_proxy", 0),  # instances are called by address
)

READY = grpc.ChannelConnectivity.READY
FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class Places:
    """Channels by address, made when they are first asked for."""

    def __init__(self, make: Callable[[str], Any], world: World) -> None:
        self._make, self._world = make, world
        self._channels: dict[Address, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def ready(self, address: Address, limit_s: float) -> Any:
        """The channel to an instance that is there. Raises Unsent."""
        channel: Any = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._make(str(address))
        if channel.get_state(try_to_connect=True) is READY:
            return channel
        try:
            async with within(self._world, min(limit_s, CONNECT_S)):
                return await self._connected(channel)
        except TimeoutError:
            self._forget(address, channel)
            raise Unsent(f"no connection within {min(limit_s, CONNECT_S):.3g} s") from None
        except Unsent:
            # Its own next attempt would be late: gRPC waits a second and longer. The next call makes another channel.
            self._forget(address, channel)
            raise

    async def _connected(self, channel: Any) -> Any:
        while (state := channel.get_state(try_to_connect=True)) is not READY:
            if state in FAILED:
                raise Unsent("connection refused")
            try:
                await channel.wait_for_state_change(state)
            except grpc.aio.UsageError as error:  # another call has found out already
                raise Unsent(str(error)) from error
        return channel

    def lost(self, channel: Any) -> bool:
        """Has its connection ended?"""
        return channel.get_state() is not READY

    def keep(self, addresses: Collection[Address]) -> None:
        """The others are not listed any more: what they have begun may end."""
        for address in [each for each in self._channels if each not in addresses]:
            self._forget(address, self._channels[address])

    async def close(self, grace_s: float | None) -> None:
        channels, self._channels = self._channels, {}
        await asyncio.gather(*(channel.close(grace_s) for channel in channels.values()))
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _forget(self, address: Address, channel: Any) -> None:
        """Close a channel, once what others have begun on it has ended."""
        held = self._channels.get(address) is channel
        if not held:
            return  # another call has done so
        del self._channels[address]
        task = asyncio.get_running_loop().create_task(channel.close(GRACE_S), name=f"close {address}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
