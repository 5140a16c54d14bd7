"""`gapless serve`, composed: keeper, listeners, admin socket, pid file, master."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from gapless.core.errors import ConfigError, GaplessError
from gapless.server.admin.admin import Admin
from gapless.server.connections.queue import open_queue
from gapless.server.early import Early, open_standard_descriptors
from gapless.server.listen.bind import Access, Listener, alive, listeners, shown, unix_listener
from gapless.server.master.keep import Keep, Legacy, part
from gapless.server.master.log import log_to_stderr
from gapless.server.master.master import Master
from gapless.server.master.outcome import HANDED_ON
from gapless.server.master.plain import to_plain
from gapless.server.settings import Settings
from gapless.server.systemd.sockets import Passed, apart, binds_of, take

if TYPE_CHECKING:
    from gapless.core.ports import World  # its types take a third of the time that a start may take

_log = logging.getLogger("gapless.server")

FOLDER = ".gapless"
ADMIN = os.path.join(FOLDER, "serve.sock")
"""Below the working directory, where `gapless reload` looks for it."""
SERVER = "server"
"""The name under which the keeper holds what never changes: settings and paths."""


async def serve(
    settings: Settings, world: World, keep: Keep, found: Sequence[Passed] = (), early: Early | None = None
) -> int:
    """Run until told to stop; returns the exit code. `found`: sockets that systemd passed. Raises ConfigError,
    PortTaken, AppError, NotReady."""
    log_to_stderr()
    began = world.now()
    kept, passed = apart(found)
    settings = settings._replace(binds=binds_of(settings.binds, passed))
    opened = listeners(settings.binds, Access(settings.socket_mode, settings.socket_owner), kept)
    try:
        admin = admin_socket(settings.admin, keep.pid)
    except BaseException:
        for listener in opened:
            listener.close()
        raise

    def ready() -> None:
        keep.save(SERVER, {"settings": to_plain(settings), "paths": [one.path for one in opened], "admin": admin.path})
        keep.stay(True)
        pid_file.write()
        scheme = "https" if settings.tls_cert else "http"
        where = ", ".join(shown(listener.sock, scheme) for listener in opened)
        took = f"{settings.workers} worker{'s' * (settings.workers > 1)} ready after {world.now() - began:.2f} s"
        say(f"Serving {settings.app} on {where} ({took}; pid {keep.pid}; admin unix:{admin.path})")

    pid_file = PidFile(settings.pid_file, keep)
    return await live(Master(settings, opened, open_queue(), world, ready, keep, early), admin, pid_file)


async def live(master: Master, listener: Listener, pid_file: PidFile, legacy: Legacy | None = None) -> int:
    """A master's life with its admin socket. When it ends as it should, so does the server; after anything else, and
    when it is HANDED_ON, everything is left in place for the next master."""
    admin = Admin(master, listener)
    await admin.start()
    try:
        code = await master.run(legacy)
    except GaplessError as error:
        await _end(admin, pid_file, master.keep, error.exit_code)
        raise
    if code == HANDED_ON:
        await admin.leave()
        while not master.keep.leave():  # noqa: ASYNC110 - rare: the keeper has just been killed
            await asyncio.sleep(0.05)  # nobody leaves before there is another one
        os._exit(0)  # nothing is closed or waited for that the next one needs
    await _end(admin, pid_file, master.keep, code)
    return code


async def _end(admin: Admin, pid_file: PidFile, keep: Keep, code: int) -> None:
    keep.stay(False, code)
    await admin.close()
    pid_file.remove()


def admin_socket(path: str, pid: int) -> Listener:
    """The given one; else the default, or one with the server's pid in its name when another server has that. Raises
    PortTaken, ConfigError."""
    if path:
        return unix_listener(path.removeprefix("unix:"), mode=0o600)
    try:
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {FOLDER}: {error.strerror}", "Give a place with --admin unix:PATH.") from error
    mine = os.path.join(FOLDER, f"serve-{pid}.sock")
    return unix_listener(mine if alive(ADMIN) else ADMIN, mode=0o600)


class PidFile:
    """Written when the server is ready, not earlier: whoever waits for it may signal it then. Written again when the
    server has another pid. `written`: by an earlier master."""

    def __init__(self, path: str, keep: Keep, written: bool = False) -> None:
        self._path = path
        self._keep = keep
        self._written = written
        keep.changed.append(self._changed)

    def write(self) -> None:
        """A server that cannot write it, for want of disk space for instance, serves on and says so."""
        if not self._path:
            return
        try:
            self._replace()
        except OSError as error:
            _log.error("the pid file %s could not be written: %s", self._path, error.strerror)
            return
        self._written = True

    def _replace(self) -> None:
        """At once, so that nobody reads half of it; on a full disk in place, which needs no space. Raises OSError."""
        line, new = f"{self._keep.pid}\n", f"{self._path}.{os.getpid()}"
        try:
            with open(new, "w") as file:
                file.write(line)
            os.replace(new, self._path)
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(new)
            with open(self._path, "r+") as file:
                file.write(line)
                file.truncate()

    def remove(self) -> None:
        if self._written:
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def _changed(self) -> None:
        if self._written:
            self.write()


def say(line: str) -> None:
    """One line for whoever started us, at once. A disk that is full of logs is no reason not to serve."""
    with suppress(OSError):
        os.write(1, f"{line}\n".encode())


def run(settings: Settings, early: Early | None = None) -> int:
    """`serve` on a loop of its own, with a keeper."""
    from gapless.core.world import RealWorld

    found = take(os.environ, os.getpid())
    open_standard_descriptors()
    keep = part()
    with asyncio.Runner() as runner:
        return runner.run(serve(settings, RealWorld(), keep, found, early))
