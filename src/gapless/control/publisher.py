"""Tells instances their configuration: a file for those that start while no control plane is there, a stream for all
others; and knows from what they say who obeys it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from gapless.control.audience import Audience, Listener
from gapless.control.records import Records
from gapless.core import codec
from gapless.core.configured import ConfigDocument, StageState
from gapless.core.ports import World


def document_of(records: Records, service: str) -> ConfigDocument:
    """What the instances of a service shall know now."""
    config = records.config(service)
    stage = config.staging
    return ConfigDocument(
        service=service,
        current=records.config_revision(service, config.current),
        staged=records.config_revision(service, stage.number) if stage else None,
        members=stage.members if stage else (),
        everyone=stage is not None and stage.state is StageState.ALL,
    )


class Publisher:
    """`step` is one look: what is new is written and told. `directory` is where the files are."""

    def __init__(self, records: Records, directory: Path, world: World) -> None:
        self.audience = Audience(world)
        self._records = records
        self._directory = directory
        self._told: dict[str, ConfigDocument] = {}
        self._begun = asyncio.Event()
        """The records have been read: nobody is told before that there is no configuration."""

    async def step(self) -> None:
        self._begun.set()
        for service in self._records.services():
            self.publish(service.name)

    def publish(self, service: str) -> None:
        """The file first: who starts in between begins with what the others are about to hear."""
        document = document_of(self._records, service)
        if document != self._told.get(service):
            self._write(document)
            self._told[service] = document
            self.audience.publish(document)

    def _write(self, document: ConfigDocument) -> None:
        path = self._directory / f"{quote(document.service, safe='')}.json"
        if document == ConfigDocument(service=document.service) and not path.exists():
            return  # it never had any
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_bytes(codec.encode(document))
        os.replace(beside, path)

    async def follow(self, service: str, instance: str, worker: str) -> AsyncIterator[bytes]:
        """The stream for one worker."""
        await self._begun.wait()
        document = document_of(self._records, service)
        async with contextlib.aclosing(self.audience.listen(service, instance, worker, document)) as lines:
            async for line in lines:
                yield line

    def lacking(self, service: str) -> list[Listener]:
        """Workers that have not said yet that they obey what they were told last, or refused it."""
        document = document_of(self._records, service)
        return [each for each in self.audience.of(service) if not _obeys(each, document)]

    def standing(self, service: str, number: int) -> tuple[set[str], dict[str, str]]:
        """Instances all of whose workers obey a revision, and those of which one refused it or failed with it: why."""
        by_instance: dict[str, list[Listener]] = {}
        for listener in self.audience.of(service):
            by_instance.setdefault(listener.instance, []).append(listener)
        taken = {name for name, each in by_instance.items() if all(_is_at(listener, number) for listener in each)}
        refused = {
            listener.instance: listener.report.what or "; ".join(listener.report.failures)
            for each in by_instance.values()
            for listener in each
            if listener.report and listener.report.number == number and _failed(listener)
        }
        return taken - refused.keys(), refused


def _obeys(listener: Listener, document: ConfigDocument) -> bool:
    revision = document.for_instance(listener.instance)
    return listener.report is not None and listener.report.number == (revision.number if revision else 0)


def _is_at(listener: Listener, number: int) -> bool:
    return listener.report is not None and listener.report.number == number and listener.report.ok


def _failed(listener: Listener) -> bool:
    return listener.report is not None and (not listener.report.ok or bool(listener.report.failures))
