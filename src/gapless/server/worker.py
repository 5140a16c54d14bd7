"""One worker: a fresh interpreter that receives its listeners from the master, makes the application ready, serves, and
leaves when it is told to, or when nobody is there any more to tell it.

    python -m gapless.server.worker --channel FD [what `ps` shows]
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

from gapless import __version__
from gapless.core.errors import AppError, GaplessError
from gapless.core.world import RealWorld
from gapless.server import orphan
from gapless.server.handover import Ack, Channel, Failed, Fds, HandoverBroken, Hello, check_listener
from gapless.server.settings import BEFORE_LIMIT_S, Task, task_from

HANDSHAKE_S = 10.0
"""The master answers at once, unless the machine is very busy."""


def main(argv: list[str]) -> int:
    """The process's exit code."""
    began = RealWorld().now()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, _for_the_master)  # a handler, not SIG_IGN, which programs that we start would inherit
    faulthandler.enable()
    channel = Channel(socket.socket(fileno=_channel_fd(argv)))
    del sys.argv[1:]  # applications that look at it are not concerned by ours
    listeners, outputs, task = receive(channel)
    watch = orphan.watch(channel.fileno(), task.drain_s)
    faulthandler.dump_traceback_later(max(task.start_s - BEFORE_LIMIT_S, 0.1))
    try:
        return _run(channel, listeners, outputs, task, began, watch)
    except (GaplessError, ExceptionGroup) as error:
        channel.send(failure(error))
        return getattr(error, "exit_code", 1)


def _for_the_master(number: int, frame: FrameType | None) -> None:
    """Signals of a terminal or of an operator are meant for the master, which tells us what follows."""


def _channel_fd(argv: list[str]) -> int:
    if len(argv) < 2 or argv[0] != "--channel" or not argv[1].isdecimal():
        raise HandoverBroken("this process is only started by `gapless serve`", "Run `gapless serve module:app`.")
    os.set_inheritable(int(argv[1]), False)
    return int(argv[1])


def receive(channel: Channel) -> tuple[list[socket.socket], dict[str, int], Task]:
    """The hand-over up to ACK: checked listeners, the real outputs by name, and what to serve. Raises HandoverBroken,
    EOFError, TimeoutError."""
    channel.send(Hello(os.getpid(), __version__))
    received = channel.wait(HANDSHAKE_S)
    message = received.message
    if received.pid != os.getppid():
        raise HandoverBroken(f"process {received.pid} wrote to this channel, not the master ({os.getppid()})")
    if not isinstance(message, Fds) or len(message.names) != len(received.fds):
        raise HandoverBroken(f"the master sent {type(message).__name__} with {len(received.fds)} descriptors")
    named = list(zip(message.names, received.fds, strict=True))
    listeners = [check_listener(name, fd) for name, fd in named if name.startswith("listen:")]
    channel.send(Ack([name for name, _ in named]))
    return listeners, {n: fd for n, fd in named if not n.startswith("listen:")}, task_from(message.task)


def _run(
    channel: Channel,
    listeners: list[socket.socket],
    outputs: dict[str, int],
    task: Task,
    began: float,
    watch: orphan.Watch,
) -> int:
    """Everything that is heavy is imported here, under the watch of the start limit."""
    from gapless.observe import log
    from gapless.service.identity import Identity
    from gapless.service.kit import load

    who = Identity.from_env()
    handler = log.setup(who.service, who.release, who.instance, json=not os.isatty(outputs.get("stderr", 2)))
    if task.app_dir:
        sys.path.insert(0, os.path.abspath(task.app_dir))
    try:
        service = load(task.app, factory=task.factory)
        from gapless.server.serving import Serving

        serving = Serving(channel, listeners, outputs, task, service, RealWorld(), began, watch)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serving.run())
    finally:
        handler.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not CPython: the standard loop does, only slower
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def failure(error: BaseException) -> Failed:
    """What the master is told of the reason why the application cannot run."""
    if not isinstance(error, GaplessError):
        error = AppError(f"{type(error).__name__}: {error}")
    reason, *log = str(error).splitlines() or [type(error).__name__]
    return Failed(reason, error.exit_code, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
