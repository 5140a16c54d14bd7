"""What the control plane itself tells in metrics: the state of the system as its records say, and what it takes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from gapless.control.gateway import Gateway
from gapless.control.records import Records
from gapless.core.model import BUCKETS, Phase
from gapless.observe.lag import lag_of
from gapless.observe.metrics import Meter, Sample
from gapless.observe.process import ProcessMetrics


class OwnMetrics:
    """`state`: the directory whose disk is watched."""

    def __init__(self, records: Records, gateway: Gateway, state: Path) -> None:
        self._records = records
        self._gateway = gateway
        self._state = state
        self.meter = Meter()
        self.lag = lag_of(self.meter)
        self._instances = self.meter.gauge("gapless_instances", "Instances by phase", ("service", "release", "phase"))
        self._wanted = self.meter.gauge("gapless_instances_wanted", "Instances asked for", ("service",))
        self._shares = self.meter.gauge("gapless_split_share", "Share of the users (0…1)", ("service", "release"))
        self._rollouts = self.meter.gauge("gapless_rollout_active", "1 while a rollout is under way", ("service",))
        self._restarts = self.meter.counter("gapless_gateway_restarts", "Times that Envoy died and was started again")
        self._free = self.meter.gauge("gapless_disk_free_bytes", "Room where the state directory is")
        self._total = self.meter.gauge("gapless_disk_bytes", "Size of the disk where the state directory is")
        self.tracks = self.meter.gauge("gapless_recorder_series", "Series that are being recorded").labels()
        self.bytes = self.meter.gauge("gapless_recorder_bytes", "What recorded metrics take on the disk").labels()
        self._process = ProcessMetrics(self.meter, ("process",))

    def samples(self) -> list[Sample]:
        """As they are now."""
        self._count_instances()
        self._read_splits()
        self._restarts.labels().set(self._gateway.restarts)
        self._read_machine()
        return self.meter.samples()

    def _count_instances(self) -> None:
        living = [i for i in self._records.instances() if i.phase is not Phase.STOPPED]
        counts = Counter((i.service, i.release, str(i.phase)) for i in living)
        self._instances.clear()
        for key, count in counts.items():
            self._instances.labels(*key).set(count)

    def _read_splits(self) -> None:
        for family in (self._wanted, self._shares, self._rollouts):
            family.clear()
        for service in self._records.services():
            self._wanted.labels(service.name).set(service.instances)
            rollout = self._records.rollout(service.name)
            self._rollouts.labels(service.name).set(float(rollout is not None and not rollout.state.ended))
            split = self._records.split(service.name)
            for release, weight in split.weights if split else ():
                self._shares.labels(service.name, release).set(weight / BUCKETS)

    def _read_machine(self) -> None:
        self._process.read("self", "control")
        if self._gateway.pid:
            self._process.read(self._gateway.pid, "gateway")
        try:
            disk = shutil.disk_usage(self._state)
        except OSError:
            return  # the directory is gone: then there is worse trouble, which others report
        self._free.labels().set(disk.free)
        self._total.labels().set(disk.total)
