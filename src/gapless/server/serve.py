"""`gapless serve`, composed: listeners, admin socket, pid file, master."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from gapless.core.errors import ConfigError
from gapless.server.admin import Admin
from gapless.server.bind import Listener, alive, listeners, shown, unix_listener
from gapless.server.log import log_to_stderr
from gapless.server.master import Master
from gapless.server.settings import Settings

if TYPE_CHECKING:
    from gapless.core.ports import World  # its types take a third of the time that a start may take

FOLDER = ".gapless"
ADMIN = os.path.join(FOLDER, "serve.sock")
"""Below the working directory, where `gapless reload` looks for it."""


async def serve(settings: Settings, world: World) -> int:
    """Run until told to stop; returns the exit code. Raises ConfigError, PortTaken, AppError, NotReady."""
    log_to_stderr()
    began = world.now()
    opened = listeners(settings.binds)
    try:
        admin_listener = admin_socket(settings.admin)
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    written = PidFile(settings.pid_file)

    def ready() -> None:
        written.write()
        where = ", ".join(shown(listener.sock) for listener in opened)
        took = f"{settings.workers} worker{'s' * (settings.workers > 1)} ready after {world.now() - began:.2f} s"
        say(f"Serving {settings.app} on {where} ({took}; pid {os.getpid()}; admin unix:{admin_listener.path})")

    master = Master(settings, opened, world, ready)
    admin = Admin(master, admin_listener)
    await admin.start()
    try:
        return await master.run()
    finally:
        await admin.close()
        written.remove()


def admin_socket(path: str) -> Listener:
    """The given one; else the default, or one with our pid in its name when another server has that. Raises PortTaken,
    ConfigError."""
    if path:
        return unix_listener(path.removeprefix("unix:"), mode=0o600)
    try:
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {FOLDER}: {error.strerror}", "Give a place with --admin unix:PATH.") from error
    mine = os.path.join(FOLDER, f"serve-{os.getpid()}.sock")
    return unix_listener(mine if alive(ADMIN) else ADMIN, mode=0o600)


class PidFile:
    """Written when the server is ready, not earlier: whoever waits for it may signal us then."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._written = False

    def write(self) -> None:
        if not self._path:
            return
        new = f"{self._path}.{os.getpid()}"
        with open(new, "w") as file:
            file.write(f"{os.getpid()}\n")
        os.replace(new, self._path)
        self._written = True

    def remove(self) -> None:
        if self._written:
            os.unlink(self._path)


def say(line: str) -> None:
    """One line for whoever started us, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def open_standard_descriptors() -> None:
    """Where 0, 1 or 2 are closed, the next socket would get that number and be written into as if it were the output.
    Python has no stream for a closed one either."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def run(settings: Settings) -> int:
    """`serve` on a loop of its own."""
    from gapless.core.world import RealWorld

    open_standard_descriptors()
    with asyncio.Runner() as runner:
        return runner.run(serve(settings, RealWorld()))
