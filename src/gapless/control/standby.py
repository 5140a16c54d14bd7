"""What a control plane can tell while another one leads: the records, read from the store each time."""

from __future__ import annotations

from typing import Any

from gapless.config import System
from gapless.control.election import Election
from gapless.control.leader import Candidate
from gapless.control.records import Records
from gapless.control.status import service_status
from gapless.core.errors import NotLeader
from gapless.core.ports import Store
from gapless.store import shown


class Standby:
    """Reads only. Every method raises StoreUnreachable."""

    def __init__(self, system: System, store: Store, election: Election) -> None:
        self._system = system
        self._store = store
        self._election = election

    async def records(self) -> Records:
        """As they are now."""
        records = Records(self._store, lambda: None)
        await records.load()
        return records

    async def status(self) -> dict[str, Any]:
        """In the shape of `ControlPlane.status`. The gateway is the leader's to know."""
        records = await self.records()
        return {
            "system": self._system.name,
            "ready": False,
            "listen": str(self._system.gateway.listen),
            "scheme": "https" if self._system.gateway.certificates else "http",
            "state": str(self._system.state),
            "control": control_status(self._system, await self._election.leader(), await self._election.standbys()),
            "gateway": {"pid": 0, "restarts": 0, "refusal": ""},
            "services": {s.name: service_status(records, s) for s in records.services()},
        }

    async def refuse(self) -> NotLeader:
        """The answer to whoever asks for a change."""
        leader = await self._election.leader()
        if leader is None:
            return NotLeader("no control plane leads at the moment", "Try again in a few seconds.")
        return NotLeader(f"this control plane stands by; {leader} leads")


def control_status(system: System, leader: Candidate | None, standbys: tuple[Candidate, ...]) -> dict[str, Any]:
    """Who leads and who stands by, as plain data."""
    return {
        "store": shown(system.store),
        "leader": str(leader) if leader else "",
        "standbys": [str(one) for one in standbys],
    }
