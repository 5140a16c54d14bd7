"""A master that follows another one: `python -m gapless.server.heir CHANNEL`, started by the keeper.

With `--try` it says of which build it is, if it can read what an earlier master would leave (JSON on its input).
Keepers and masters of other versions execute it by that name, which stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

from gapless import __version__
from gapless.core.world import RealWorld
from gapless.server.admin.admin import ADMIN
from gapless.server.connections.queue import Ends
from gapless.server.generations.generation import State
from gapless.server.listen.bind import Listener
from gapless.server.master.keep import QUEUE, Kept, Legacy, inherit, listening
from gapless.server.master.log import log_to_stderr
from gapless.server.master.master import Master
from gapless.server.master.plain import from_plain
from gapless.server.master.upgrade import TRIAL
from gapless.server.serve import SERVER, PidFile, live
from gapless.server.settings import Settings


def main(argv: list[str]) -> int:
    """The exit code of the whole server."""
    if argv[0] == TRIAL:
        return try_to_read(sys.stdin.read())
    log_to_stderr()
    channel = socket.socket(fileno=int(argv[0]))
    os.set_inheritable(channel.fileno(), False)
    kept, legacy = inherit(channel)
    with asyncio.Runner() as runner:
        return runner.run(succeed(kept, legacy))


def try_to_read(text: str) -> int:
    plain = json.loads(text)
    from_plain(Settings, plain["settings"])
    from_plain(State, plain["state"])
    sys.stdout.write(f"{__version__}\n")
    return 0


async def succeed(kept: Kept, legacy: Legacy) -> int:
    """Serve on with what an earlier master left."""
    server = legacy.value(SERVER)
    settings: Settings = from_plain(Settings, server["settings"])
    kept.stay(True)
    queue = Ends(*(socket.socket(fileno=os.dup(fd)) for fd in legacy.held[QUEUE]))
    master = Master(settings, left(legacy, server), queue, RealWorld(), lambda: None, kept)
    pid_file = PidFile(settings.pid_file, kept, written=bool(settings.pid_file))
    pid_file.write()
    return await live(master, listener(legacy, ADMIN, server["admin"]), pid_file, legacy)


def left(legacy: Legacy, server: dict[str, Any]) -> list[Listener]:
    """The listeners, as far as a drain has not closed them yet."""
    named = [(listening(number), path) for number, path in enumerate(server["paths"])]
    return [listener(legacy, name, path) for name, path in named if name in legacy.held]


def listener(legacy: Legacy, name: str, path: str) -> Listener:
    return Listener(socket.socket(fileno=os.dup(legacy.held[name][0])), path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
