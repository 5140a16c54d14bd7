"""What the gateways tell of themselves: asked only while somebody looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gapless.console.kept import Kept
from gapless.control.gateway import Gateway
from gapless.gateway.envoy.nodes import LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """`ejected`: addresses (`host:port`) of instances that the gateway of this machine has set aside, because they
    failed too often. `elsewhere`: the other gateways that are connected, as in `gapless gateway status`."""

    ejected: frozenset[str] = frozenset()
    elsewhere: tuple[Mapping[str, Any], ...] = ()


class Gateways:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._kept = Kept(self._ask)

    async def told(self, now_at: float) -> Told:
        return await self._kept.get(now_at)

    async def _ask(self, _: float) -> Told:
        told = await self._gateway.details()
        return Told(
            ejected=frozenset(each["address"] for each in told.get("ejected", ())),
            elsewhere=tuple(each for each in told.get("gateways", ()) if each["node"] != LOCAL.name),
        )
