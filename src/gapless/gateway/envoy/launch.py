"""Starts Envoys of one state directory, so that they outlive whoever starts them (`process`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from gapless.core.errors import GaplessError
from gapless.core.ports import World
from gapless.gateway.envoy import epochs
from gapless.gateway.envoy.bootstrap import ADMIN_SOCKET, BOOTSTRAP, arguments, bootstrap
from gapless.gateway.envoy.epochs import LARGEST_BASE_ID, MARK, PRINT, Epoch, pid_file
from gapless.gateway.envoy.held import Held
from gapless.gateway.envoy.validate import validate

LINE_BYTES = 500
"""A line of Envoy's log is hardly longer."""

BASE_ID = "base-id"

_NOT_OURS = ("GAPLESS_SERVICE", "GAPLESS_RELEASE", "GAPLESS_INSTANCE")
"""Not passed on: they would make Envoy look like an instance, when `gapless up` was called from within one."""

_LAUNCH = 'rm -f "$0"; "$@" & echo $! > "$0.new" && mv "$0.new" "$0"'
"""Rename, so that a pid is never read half-written."""


class Launcher:
    """`binary` is what is configured: an Envoy that runs something else is outdated. `told`: its bootstrap, when it is
    not the one of a control plane beside it."""

    def __init__(
        self, binary: Path, state: Path, workers: int, world: World, told: dict[str, Any] | None = None
    ) -> None:
        self._told = told or bootstrap("../xds.sock")
        self._binary = binary
        self._state = state
        self._workers = workers
        self._world = world
        self.home = state / "envoy"
        self.output = state / "logs" / "envoy.log"
        self.busy = asyncio.Lock()
        """Held from the launch of a process until it is known: nobody leaves in between."""

    def running(self) -> list[Epoch]:
        """Those that live, the one that was started last at the end."""
        return epochs.running(self.home, self._state)

    def pid_path(self, epoch: Epoch) -> Path:
        return self.home / pid_file(epoch.base_id, epoch.number)

    def base_id(self, *, in_use: bool) -> int:
        """The one of before, whose 104 bytes of shared memory are then taken again; another one while somebody still
        uses that. 0: no hot restart is possible here."""
        if not epochs.hot_restart_possible():
            return 0
        with contextlib.suppress(OSError, ValueError):
            if not in_use:
                return int((self.home / BASE_ID).read_text())
        base_id = 1 + int(self._world.random() * LARGEST_BASE_ID)
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / BASE_ID).write_text(str(base_id))
        return base_id

    async def launch(self, binary: Path, base_id: int, number: int) -> Held:
        """Not to be cancelled in the middle. Raises GaplessError."""
        return await asyncio.shield(asyncio.create_task(self._launch(binary, base_id, number)))

    async def _launch(self, binary: Path, base_id: int, number: int) -> Held:
        async with self.busy:
            return await self._launched(binary, base_id, number)

    async def _launched(self, binary: Path, base_id: int, number: int) -> Held:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._write_bootstrap()
        file = pid_file(base_id, number)
        argv = ["/bin/sh", "-c", _LAUNCH, file, *arguments(binary, self._workers, base_id, number)]
        launcher = await self._world.spawn(argv, env=self._environment(), cwd=self.home, output=self.output)
        await launcher.wait()
        try:
            pid = int((self.home / file).read_text())
        except (OSError, ValueError) as error:
            raise self.failure("ended as soon as it was started") from error
        held = Held.of(Epoch(pid=pid, number=number, base_id=base_id, binary=str(binary), print=self.print))
        if held is None:
            raise self.failure("ended as soon as it was started")
        return held

    async def validate(self, binary: Path) -> None:
        """Raises GatewayMissing, GaplessError."""
        self._write_bootstrap()
        await validate(binary, self.home, self._environment(), self._world)

    @property
    def print(self) -> str:
        """Of what is configured."""
        told = [self._told, arguments(self._binary, self._workers)]
        return epochs.fingerprint(self._binary, told)

    def _write_bootstrap(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.home / BOOTSTRAP
        path.touch(mode=0o600)  # there may be a token in it
        path.chmod(0o600)
        path.write_text(json.dumps(self._told, indent=1))

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
        return {**kept, MARK: str(self._state), PRINT: self.print}

    def sweep(self) -> None:
        """After the end of all: nothing stays but the log and the bootstrap."""
        with contextlib.suppress(OSError, ValueError):
            epochs.forget_base(int((self.home / BASE_ID).read_text()))
        for path in (*self.home.glob("envoy*.pid"), self.home / ADMIN_SOCKET, self.home / BASE_ID):
            path.unlink(missing_ok=True)

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        try:
            with self.output.open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - lines * LINE_BYTES, 0))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def failure(self, what: str) -> GaplessError:
        """What Envoy did instead of running, with its last words."""
        return GaplessError(f"Envoy {what}:\n{self.tail()}", f"Its whole log is {self.output}.")
