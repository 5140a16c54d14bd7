"""What pages are made from: the control plane's records and figures at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapless.console.gateways import Gateways
from gapless.console.lately import Lately, Slot, added, begun
from gapless.console.recorded import SLOT_S, Recorded
from gapless.control.plane import ControlPlane
from gapless.control.records import Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """`at`: seconds since the epoch."""

    plane: ControlPlane
    lately: Lately
    recorded: Recorded
    gateways: Gateways
    at: float

    @property
    def records(self) -> Records:
        return self.plane.records

    def releases(self, service: str) -> list[str]:
        """Those that may have answered lately: of the split, of living instances, and of the newest rollout."""
        split, newest = self.records.split(service), self.records.rollout(service)
        named = [release for release, _ in split.weights] + [split.stable] if split else []
        named += [newest.after, newest.before] if newest else []
        return list(dict.fromkeys(named + [i.release for i in self.records.instances(service)]))

    async def answered(self, service: str, *, since_s: float = 900.0, slot_s: float = 10.0) -> list[Slot]:
        """All releases of a service together: as the gateway saw it, else as its instances counted."""
        known = self.records.service(service)
        if known is None or not known.routes:
            return await self.recorded.slots(service, self.at)
        parts = [
            await self.lately.slots(service, release, self.at, since_s=since_s, slot_s=slot_s)
            for release in self.releases(service)
        ]
        seen = begun(added(parts))
        return [*(await self._before(service, seen, slot_s)), *seen]

    async def _before(self, service: str, seen: Sequence[Slot], slot_s: float) -> list[Slot]:
        """What was recorded before the gateway's memory begins: it is that of this control plane."""
        if slot_s != SLOT_S:
            return []
        first_at = seen[0].at if seen else self.at
        return [slot for slot in await self.recorded.slots(service, self.at) if slot.at < first_at]
