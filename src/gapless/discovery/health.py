"""Health by many eyes, performed: what callers tell of instances (`discovery.sights`) is put together
(`discovery.eyes`), and what comes of it is written into the registry.

Below the quorum an instance's weight sinks by quarters, so that few complaints mean few writes; at the quorum a check
of its own, `gapless:witnesses:<id>`, is critical. Evidence expires, and with it weight and check are as before. What an
earlier registry wrote is taken back in the same way: it has `EVIDENCE_S` to be confirmed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from msgspec import structs

from gapless.core.errors import GaplessError
from gapless.core.ports import World
from gapless.discovery.catalog import writes
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import WITNESSES
from gapless.discovery.eyes import EVIDENCE_S, Eyes, Opinion, Sight
from gapless.discovery.sights import Report, Told

DEGREES = 4
LOOK_S = 0.5
"""Between two looks at those that were complained about: this much later than its evidence a mark goes."""

KNOWN = 100_000
"""Instances whose places are remembered, so that a report costs a look-up for each of its sights."""

_log = logging.getLogger("gapless.registry")

Place = tuple[str, str]
"""Node and id."""


def share_of(opinion: Opinion) -> float:
    """The weight that is left: 1, 0.75, 0.5, 0.25, or 0 for what a quorum rejects."""
    return max(math.floor(opinion.weight * DEGREES), 1) / DEGREES if opinion.healthy else 0.0


class Health:
    """What callers say, and what the registry makes of it."""

    def __init__(self, catalog: Catalog, world: World, eyes: Eyes | None = None) -> None:
        self._catalog, self._world = catalog, world
        self._eyes = eyes or Eyes()
        self._since: dict[Place, float] = {}
        """Those that are looked at: complained about, or marked. Since when."""
        self._wanted: dict[Place, float] = {}
        """The share that is to be written of them, or is."""
        self._unwritten: set[Place] = set()
        """The store could not take what is wanted."""
        self._places: dict[Told, Place] = {}
        self._forgot_at = -math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancel: Callable[[], None] | None = None
        self._open = False

    async def start(self) -> None:
        """Marks that are found have `EVIDENCE_S` to be confirmed."""
        self._open = True
        view = self._catalog.view
        marked = [
            (row.check.node, row.check.service_id)
            for rows in view.checks.values()
            for row in rows.values()
            if row.check.id.startswith(WITNESSES) and row.check.notes == self._catalog.name
        ]
        for place in (*marked, *view.sunk):
            self._since[place] = self._world.now() + EVIDENCE_S
            self._wanted[place] = 0.0
        self._arm()

    async def aclose(self) -> None:
        self._open = False
        if self._cancel is not None:
            self._cancel()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def saw(self, report: Report) -> int:
        """Take a caller's report. Returns how many of its instances are known here."""
        now, known = self._world.now(), 0
        concerned: list[Place] = []
        for told in report.sights:
            place = self._place(told)
            if place is None:
                continue
            known += 1
            self._eyes.saw(report.observer, "\0".join(place), told.sight, now)
            if told.sight is not Sight.WELL:
                self._since.setdefault(place, now)
            if place in self._since:
                concerned.append(place)
        for place in concerned:  # not before all of it is known: who complains about everybody is not believed
            self._judge(place, now)
        self._arm()
        return known

    def _place(self, told: Told) -> Place | None:
        """Of the instance of that id at that address: ids are unique on a node only."""
        key = structs.replace(told, sight=Sight.WELL)
        place = self._places.get(key)
        if place is not None and self._is_at(place, told):
            return place
        if len(self._places) >= KNOWN:
            self._places.clear()
        for one in self._catalog.view.services.get(told.service, ()):
            if one[1] == told.id and self._is_at(one, told):
                self._places[key] = one
                return one
        return None

    def _is_at(self, place: Place, told: Told) -> bool:
        row = self._catalog.view.services.get(told.service, {}).get(place)
        if row is None:
            return False
        host, port = self._catalog.view.found(row).address, row.instance.port
        return told.address in (f"{host}:{port}", f"[{host}]:{port}")

    def _arm(self) -> None:
        if self._since and self._cancel is None and self._open:
            self._cancel = self._world.after(LOOK_S, self._look)

    def _look(self) -> None:
        self._cancel = None
        now = self._world.now()
        for place in list(self._since):
            self._judge(place, now)
        if now - self._forgot_at > EVIDENCE_S:
            self._eyes.forget(now)
            self._forgot_at = now
        self._arm()

    def _judge(self, place: Place, now: float) -> None:
        opinion = self._eyes.opinion("\0".join(place), now)
        share = share_of(opinion)
        if share == 1.0 and now < self._since[place]:
            return  # an earlier registry's mark, which nobody has confirmed or denied yet
        if share != self._wanted.get(place, 1.0) or place in self._unwritten:
            self._unwritten.discard(place)
            self._wanted[place] = share
            self._write(place, opinion)
        if share == 1.0 and not opinion.complaining and place not in self._unwritten:
            del self._since[place]
            self._wanted.pop(place, None)

    def _write(self, place: Place, opinion: Opinion) -> None:
        task = asyncio.create_task(self._witness(place, opinion))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _witness(self, place: Place, opinion: Opinion) -> None:
        (node, instance), by = place, self._catalog.name
        said = f"{opinion.complaining} of {opinion.asking} callers complain"
        _log.info("%s on %s: %s", instance, node, said)
        try:
            await self._catalog.write(
                # What is wanted by the time that it is decided: a later word may have come meanwhile.
                lambda view: writes.witness(view, node, instance, self._wanted.get(place, 1.0), said, by)
            )
        except GaplessError as error:
            _log.warning("what callers say of %s cannot be written yet: %s", instance, error)
            self._unwritten.add(place)
            self._since.setdefault(place, self._world.now())
            self._arm()
