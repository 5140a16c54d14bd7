"""When leases lapse. Renewals live in memory only: they come by the thousand, and a restart starts every lease anew."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from gapless.core.errors import LeaseLost
from gapless.core.ports import World

STALL_S = 1.0
"""A clock that rings so late was stopped together with the process (SIGSTOP, a debugger, a starved machine). Nobody
could renew meanwhile, so every lease starts its time anew, as after a restart, instead of all lapsing at once."""


class Leases:
    """One timer for all leases; `lapse(lease)` is called once for each that was not renewed in time."""

    def __init__(self, world: World, lapse: Callable[[str], None]) -> None:
        self._world, self._lapse = world, lapse
        self._ttl_s: dict[str, float] = {}
        self._due: dict[str, float] = {}
        # One row per lease, put back with its new moment when it is found renewed: a renewal costs one dict entry.
        self._rows: list[tuple[float, str]] = []
        self._cancel: Callable[[], None] | None = None
        self._rings_at = 0.0

    def begin(self, ttls: Mapping[str, float]) -> None:
        """Start the time of leases that the storage remembers."""
        for lease, ttl_s in ttls.items():
            self.add(lease, ttl_s)

    def add(self, lease: str, ttl_s: float) -> None:
        self._ttl_s[lease] = ttl_s
        self._due[lease] = self._world.now() + ttl_s
        heapq.heappush(self._rows, (self._due[lease], lease))
        self._wind()

    def renew(self, lease: str) -> None:
        """Raises LeaseLost."""
        if lease not in self._due:
            raise LeaseLost(f"lease {lease!r} has expired or was revoked")
        self._due[lease] = self._world.now() + self._ttl_s[lease]

    def drop(self, lease: str) -> None:
        """It was revoked: no longer to be watched."""
        self._due.pop(lease, None)
        self._ttl_s.pop(lease, None)

    def stop(self) -> None:
        """No lease lapses any more."""
        if self._cancel:
            self._cancel()
        self._cancel = None

    def _wind(self) -> None:
        if not self._rows or (self._cancel and self._rings_at <= self._rows[0][0]):
            return
        self.stop()
        self._rings_at = self._rows[0][0]
        self._cancel = self._world.after(self._rings_at - self._world.now(), self._ring)

    def _ring(self) -> None:
        self._cancel = None
        now = self._world.now()
        if now - self._rings_at > STALL_S:
            self._due = {lease: now + ttl_s for lease, ttl_s in self._ttl_s.items()}
        while self._rows and self._rows[0][0] <= now:
            _, lease = heapq.heappop(self._rows)
            self._look(lease, now)
        self._wind()

    def _look(self, lease: str, now: float) -> None:
        due = self._due.get(lease)
        if due is None:
            return
        if due > now:
            heapq.heappush(self._rows, (due, lease))
            return
        self.drop(lease)
        self._lapse(lease)
