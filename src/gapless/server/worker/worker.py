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
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from gapless import __version__
from gapless.core.errors import AppError, ConfigError, GaplessError
from gapless.core.world import RealWorld
from gapless.server.connections import queue as connection_queue
from gapless.server.connections.queue import Ends, check_end
from gapless.server.early import AHEAD
from gapless.server.handover.handover import Ack, Channel, Failed, Fds, HandoverBroken, Hello, Who
from gapless.server.handover.listener import check_listener
from gapless.server.settings import BEFORE_LIMIT_S, GRPC, WSGI, Task, task_from
from gapless.server.worker import orphan

if TYPE_CHECKING:
    from gapless.server.worker.front import Front
    from gapless.service.kit import Service

HANDSHAKE_S = 10.0
"""The master answers at once, unless the machine is very busy."""


class Handed(NamedTuple):
    """What the master hands to a worker. `outputs` are the real stdout and stderr; `queue` is None when the master is
    of a version that has none."""

    listeners: list[socket.socket]
    queue: Ends | None
    outputs: dict[str, int]
    task: Task


def main(argv: list[str]) -> int:
    """The process's exit code."""
    began = RealWorld().now()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, _for_the_master)  # a handler, not SIG_IGN, which programs that we start would inherit
    faulthandler.enable()
    channel = Channel(socket.socket(fileno=_channel_fd(argv)))
    del sys.argv[1:]  # applications that look at it are not concerned by ours
    channel.send(Hello(os.getpid(), __version__))
    if AHEAD in argv[2:3]:
        load_ahead()
    try:
        handed = receive(channel)
    except EOFError:
        if AHEAD in argv[2:3]:
            return 0  # there will be no master: its command was wrong, say
        raise
    task = handed.task
    watch = orphan.watch(channel.fileno(), task.drain_s)
    faulthandler.dump_traceback_later(max(task.start_s - BEFORE_LIMIT_S, 0.1))
    try:
        return _run(channel, handed, began, watch)
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


def receive(channel: Channel) -> Handed:
    """The hand-over from HELLO up to ACK. Raises HandoverBroken, EOFError, TimeoutError."""
    received = channel.wait(HANDSHAKE_S)
    while isinstance(received.message, Who):  # another master, that the first one told nothing
        channel.send(Hello(os.getpid(), __version__))
        received = channel.wait(HANDSHAKE_S)
    message = received.message
    if not isinstance(message, Fds) or len(message.names) != len(received.fds):
        raise HandoverBroken(f"the master sent {type(message).__name__} with {len(received.fds)} descriptors")
    named = dict(zip(message.names, received.fds, strict=True))
    listeners = [check_listener(name, fd) for name, fd in named.items() if name.startswith("listen:")]
    queue = _queue(named)
    channel.send(Ack(message.names))
    outputs = {name: fd for name, fd in named.items() if name in ("stdout", "stderr")}
    return Handed(listeners, queue, outputs, task_from(message.task))


def load_ahead() -> None:
    """What an HTTP service imports anyway, and the application does not decide upon."""
    from gapless.observe import log  # noqa: F401
    from gapless.server.http.front import load_lazy
    from gapless.server.worker import serving  # noqa: F401

    _loop_factory()
    load_lazy()


def _queue(named: Mapping[str, int]) -> Ends | None:
    if not all(name in named for name in connection_queue.NAMES):
        return None
    return Ends(*(check_end(name, named[name]) for name in connection_queue.NAMES))


def _run(channel: Channel, handed: Handed, began: float, watch: orphan.Watch) -> int:
    """Everything that is heavy is imported here, under the watch of the start limit."""
    outputs, task = handed.outputs, handed.task
    from gapless.observe import log
    from gapless.server.worker.outputs import forgive
    from gapless.service.identity import Identity
    from gapless.service.log_context import request_context

    who = Identity.from_env()
    plain = os.isatty(outputs.get("stderr", 2))
    handler = log.setup(who.service, who.release, who.instance, json=not plain, context=request_context)
    forgive()
    if task.app_dir:
        sys.path.insert(0, os.path.abspath(task.app_dir))
    try:
        service, front = _loaded(handed)
        from gapless.server.worker.serving import Serving

        serving = Serving(channel, front, outputs, task, service, RealWorld(), began, watch)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serving.run())
    finally:
        handler.close()


def _loaded(handed: Handed) -> tuple[Service, Front]:
    """The user's code, and what serves it. Raises AppError, ConfigError."""
    task = handed.task
    if task.interface == GRPC:
        return _loaded_grpc(handed)
    from gapless.service.interface import THREADS
    from gapless.service.kit import load

    service = load(
        task.app,
        task.factory,
        wsgi=task.interface == WSGI,
        threads=task.threads or THREADS,
        root_path=task.root_path,
    )
    from gapless.server.http.front import http_front

    return service, http_front(service, handed.listeners, handed.queue, task)


def _loaded_grpc(handed: Handed) -> tuple[Service, Front]:
    try:
        from gapless.server.grpc.front import GrpcFront
        from gapless.service.grpc_service import load_grpc
    except ImportError as error:
        raise ConfigError(f"--grpc needs what is not installed: {error}", "pip install 'gapless[grpc]'") from error
    service = load_grpc(handed.task.app, handed.task.factory)
    return service, GrpcFront(service, handed.listeners, handed.task)


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
