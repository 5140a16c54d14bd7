"""What watches over a system: its metrics and traces, the alerts that are made of them, what is done then, and who is
told."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from gapless.config import System
from gapless.control.actor import Actor
from gapless.control.alert_commands import AlertCommands
from gapless.control.alerter import Alerter
from gapless.control.alertmanager import Alertmanagers
from gapless.control.commands import Author, Commands
from gapless.control.configure import ConfigCommands
from gapless.control.gateway import Gateway
from gapless.control.incidents import Incidents
from gapless.control.loop import Loop
from gapless.control.notify.notifier import Notifier
from gapless.control.records import Records
from gapless.control.rollouts import RolloutCommands
from gapless.control.scraper import Scraper
from gapless.control.traces import Traces
from gapless.core.errors import SignalsUnavailable
from gapless.core.events import Events
from gapless.core.model import Change
from gapless.core.ports import Fleet, Signals, World
from gapless.observe.recorder.recorder import FINE_EVERY_S, Recorder

RECORD_EVERY_S = FINE_EVERY_S
NOTIFY_EVERY_S = 1.0
TRACE_EVERY_S = 1.0
ALERT_EVERY_S = 1.0


class Watching:
    """`signals` are asked; `recorder` is where metrics are kept, if they are kept here."""

    def __init__(
        self,
        system: System,
        records: Records,
        commands: Commands,
        rollouts: RolloutCommands,
        config: ConfigCommands,
        fleet: Fleet,
        gateway: Gateway,
        world: World,
        events: Events,
        *,
        signals: Signals,
        recorder: Recorder | None,
    ) -> None:
        self._commands = commands
        self._world = world
        self._recorder = recorder
        self.signals = signals
        self.scraper = Scraper(records, fleet, gateway, system.state, recorder)
        self.traces = Traces(records, fleet, gateway, system.state / "traces", system.tracing.slow_s)
        base = system.path.parent
        self.notifier = Notifier(system.notify, system.name, base, records, world, lambda: self._notifying.wake())
        self._notifying = Loop("notifier", self.notifier.step, NOTIFY_EVERY_S, world)
        self.alerter = Alerter(system.alerts, records, signals, world, os.cpu_count() or 1)
        self.alerts = AlertCommands(records, world, events)
        watches = self.alerter.watches
        self.actor = Actor(system.alerts, records, commands, rollouts, config, watches, world, events)
        self.incidents = Incidents(system.name, records, signals, watches, world)
        self._alertmanagers = Alertmanagers(system.alerts.alertmanager, system.name, records, world)

    def loops(self) -> tuple[Loop, ...]:
        world = self._world
        return (
            self._notifying,
            Loop("traces", self.traces.step, TRACE_EVERY_S, world, woken=False),
            Loop("alerter", self.alerter.step, ALERT_EVERY_S, world, woken=False),
            Loop("actor", self.actor.step, ALERT_EVERY_S, world, woken=False),
            Loop("incidents", self.incidents.step, ALERT_EVERY_S, world, woken=False),
            Loop("alertmanager", self._alertmanagers.step, ALERT_EVERY_S, world, woken=False),
            *([Loop("recorder", self.scraper.step, RECORD_EVERY_S, world, woken=False)] if self._recorder else ()),
        )

    @property
    def records_metrics(self) -> bool:
        return self._recorder is not None

    async def open(self) -> None:
        """What an earlier control plane has kept."""
        if self._recorder:
            await self._recorder.open()
        await self.traces.load()

    async def cancel(self) -> None:
        """End what is under way; whoever comes next begins it again."""
        await asyncio.gather(self.notifier.jobs.cancel(), self.actor.jobs.cancel(), self._alertmanagers.jobs.cancel())

    async def close(self) -> None:
        if self._recorder:
            await self._recorder.close()
        if aclose := getattr(self.signals, "aclose", None):
            await aclose()

    async def metric_names(self) -> list[str]:
        """What the embedded record has; a Prometheus is asked itself. Raises SignalsUnavailable."""
        if self._recorder is None:
            raise SignalsUnavailable("no metrics are recorded here", "Ask the Prometheus that has them.")
        return await self._recorder.names()

    def policy_changes(self, now: System, then: System, author: Author) -> list[Change]:
        """What taking `alerts:` and `notify:` would be logged as."""
        pairs = {"alerts": (now.alerts, then.alerts), "notify": (now.notify, then.notify)}
        names = [name for name, (before, after) in pairs.items() if before != after]
        return [self._commands.change(author, f"{' and '.join(names)} changed in gapless.yaml", "")] if names else []

    async def take_policies(self, now: System, then: System, author: Author) -> tuple[System, list[Change]]:
        """From the next look on; the system as it is now, and what was logged."""
        changes = self.policy_changes(now, then, author)
        for change in changes:
            await self._commands.commit(change)
        self.alerter.policy = self.actor.policy = then.alerts
        self.notifier.policy = then.notify
        self._alertmanagers.urls = then.alerts.alertmanager
        return replace(now, alerts=then.alerts, notify=then.notify), changes
