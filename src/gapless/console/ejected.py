"""Whom the gateway has set aside because it failed too often: asked only while somebody looks."""

from __future__ import annotations

from gapless.console.kept import Kept
from gapless.control.gateway import Gateway


class Ejected:
    """Addresses (`host:port`) of instances."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._kept = Kept(self._ask)

    async def addresses(self, now_at: float) -> frozenset[str]:
        return await self._kept.get(now_at)

    async def _ask(self, _: float) -> frozenset[str]:
        told = await self._gateway.details()
        return frozenset(each["address"] for each in told.get("ejected", ()))
