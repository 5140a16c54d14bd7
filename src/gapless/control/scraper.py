"""Asks everybody for their metrics: every few seconds for the record, and whenever a Prometheus comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gapless.control.gateway import Gateway
from gapless.control.own_metrics import OwnMetrics
from gapless.control.records import Records
from gapless.core.errors import SignalsUnavailable, UnknownName
from gapless.core.model import Instance, Phase
from gapless.core.ports import Fleet, Selection, Series
from gapless.observe.exposition import federated
from gapless.observe.recorder.head import Scraped
from gapless.observe.recorder.recorder import Recorder
from gapless.service.admin import render

AT_ONCE = 16
"""Instances that are asked at the same time."""
GATEWAY, CONTROL = "gateway", "control"
"""What `instance` says in the metrics that are of no service's instance."""


class Scraper:
    """`step` is one round for the record, if there is one."""

    def __init__(
        self, records: Records, fleet: Fleet, gateway: Gateway, state: Path, recorder: Recorder | None
    ) -> None:
        self._records = records
        self._fleet = fleet
        self._gateway = gateway
        self._recorder = recorder
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.own = OwnMetrics(records, gateway, state)
        self._ours: Mapping[str, Callable[[], str]] = {
            GATEWAY: lambda: render(gateway.samples(), open_metrics=True).decode(),
            CONTROL: lambda: render(self.own.samples(), open_metrics=True).decode(),
        }

    async def step(self) -> None:
        assert self._recorder is not None
        await self._recorder.record(await self.scraped())
        tracks, size = await self._recorder.size()
        self.own.tracks.set(tracks)
        self.own.bytes.set(size)

    async def scraped(self) -> list[Scraped]:
        """What everybody tells now. Who does not answer is left out."""
        asked = self.instances()
        told = await asyncio.gather(*(self._ask(instance) for instance in asked))
        return [
            *(Scraped(labels_of(instance), text) for instance, text in zip(asked, told, strict=True) if text),
            *(Scraped({"instance": name}, text()) for name, text in self._ours.items()),
        ]

    def instances(self) -> list[Instance]:
        """Those that are asked."""
        return [i for i in self._records.instances() if i.pid and i.phase is not Phase.STOPPED]

    async def one(self, name: str, *, open_metrics: bool) -> bytes:
        """What one instance, the gateway or the control plane tells now; empty when it does not answer. Raises
        UnknownName."""
        if name in self._ours:
            return federated([({"instance": name}, self._ours[name]())], open_metrics=open_metrics)
        instance = next((each for each in self.instances() if each.id == name), None)
        if instance is None:
            raise UnknownName(f"there is no instance {name!r}", "See /http_sd for those that there are.")
        text = await self._ask(instance)
        return federated([(labels_of(instance), text)], open_metrics=open_metrics) if text else b""

    async def federated(self, *, open_metrics: bool) -> bytes:
        """All of it as one text."""
        return federated(((one.labels, one.text) for one in await self.scraped()), open_metrics=open_metrics)

    async def _ask(self, instance: Instance) -> str:
        async with self._turns:
            return await self._fleet.scrape(instance)


def labels_of(instance: Instance) -> dict[str, str]:
    return {"service": instance.service, "release": instance.release, "instance": instance.id}


class NoSignals:
    """Where nothing is recorded."""

    async def series(self, selection: Selection, since_at: float, until_at: float, step_s: float) -> Sequence[Series]:
        raise SignalsUnavailable("no metrics are recorded here")

    async def latest(self, selection: Selection, at: float | None = None) -> Sequence[Series]:
        raise SignalsUnavailable("no metrics are recorded here")
