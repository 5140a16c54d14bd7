"""Servers that stop (SIGSTOP) at a step of the hand-over that a test names: a copy of the product, in which channel and
keeper's client look for a file of that name first. So a test kills what it likes at exactly that step.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import gapless
from tests.integration.serve_kit import Server, served, session, until

SOURCE = Path(gapless.__file__).parent

HOOKS = """

def _step(name):
    try:
        os.unlink(os.path.join(os.environ["GAPLESS_STEPS"], name))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), 19)


def _hook_channel(send, receive):
    def sending(self, message, *rest, **more):
        _step("before-" + type(message).__name__.upper())
        send(self, message, *rest, **more)
        _step("after-" + type(message).__name__.upper())

    def receiving(self):
        received = receive(self)
        if received:
            _step("got-" + type(received.message).__name__.upper())
        return received

    Channel.send, Channel.receive = sending, receiving


_hook_channel(Channel.send, Channel.receive)
"""

KEEP_HOOKS = """

def _hook_keep(hold):
    from gapless.server.handover.handover import _step

    def holding(self, name, fds):
        _step("before-hold-" + name.partition(":")[0])
        hold(self, name, fds)
        _step("after-hold-" + name.partition(":")[0])

    Kept.hold = holding


_hook_keep(Kept.hold)
"""


def use_copy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers run the copy of the product there. Its coverage is nobody's: to measure it would double their starts."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(place))


@contextmanager
def stepped(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Iterator[Server]:
    """A server that is ready, and stops at steps."""
    shutil.copytree(SOURCE, folder / "lib" / "gapless", ignore=shutil.ignore_patterns("__pycache__"))
    for module, hooks in (("handover/handover", HOOKS), ("master/keep", KEEP_HOOKS)):
        with (folder / "lib" / "gapless" / "server" / f"{module}.py").open("a") as file:
            file.write(hooks)
    (folder / "steps").mkdir()
    use_copy(folder / "lib", monkeypatch)
    monkeypatch.setenv("GAPLESS_STEPS", str(folder / "steps"))
    with served(folder, *options) as server:
        yield server


def stop_at(server: Server, step: str, begin: Callable[[], None]) -> int:
    """Do what leads to the step, and wait until a process has stopped there; its pid."""
    file = server.folder / "steps" / step
    file.touch()
    begin()
    until(lambda: stopped(server), f"a process stops at {step}")
    assert not file.exists()
    (pid,) = stopped(server)
    return pid


def stopped(server: Server) -> list[int]:
    return [pid for pid in [server.pid, *session(server.pid)] if state(pid) == "T"]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def go_on(pid: int) -> None:
    if state(pid) == "T":
        os.kill(pid, signal.SIGCONT)


def settled(server: Server, workers: int) -> bool:
    """Keeper and master are there, as many workers as wanted serve, and nothing else is left over."""
    status = server.status()
    phases = [worker["phase"] for worker in status["workers"]]
    return (
        status["coming"] == 0
        and phases == ["serving"] * workers
        and set(session(server.pid, zombies=True)) | {server.pid}
        == {server.pid, status["pid"], status["master"], *(worker["pid"] for worker in status["workers"])}
    )
