"""What the service manager hears, on a socket such as systemd's."""

from __future__ import annotations

import array
import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapless.server.systemd.notify import Manager, manager, without
from gapless.testing import FakeWorld


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(short_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name if request.param == "path" else f"\0{name}")
        sock.settimeout(5)
        yield sock, name if request.param == "path" else f"@{name}"


def test_readiness_names_the_main_process(heard: tuple[socket.socket, str]) -> None:
    sock, address = heard
    Manager(address).ready(17, "generation 1 serves")
    assert sock.recv(4096).decode().splitlines() == ["READY=1", "MAINPID=17", "STATUS=generation 1 serves"]


def test_listeners_are_given_to_be_kept(heard: tuple[socket.socket, str]) -> None:
    sock, address = heard
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Manager(address).store([listener.fileno()])
        assert sock.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=gapless"
        text, control, _, _ = sock.recvmsg(4096, 1024)
        fds = array.array("i", control[0][2])
        with socket.socket(fileno=fds[0]) as kept:
            assert kept.getsockname() == listener.getsockname()
    assert text.decode().splitlines() == ["FDSTORE=1", "FDNAME=gapless", "FDPOLL=0"]


def test_the_other_messages(heard: tuple[socket.socket, str]) -> None:
    sock, address = heard
    one = Manager(address)
    one.reloading("reloading", 1.5)
    one.stopping("draining")
    one.moved(18)
    told = [sock.recv(4096).decode().partition("\n")[0] for _ in range(3)]
    assert told == ["RELOADING=1", "STOPPING=1", "MAINPID=18"]


async def test_signs_of_life_come_three_times_within_the_managers_patience(heard: tuple[socket.socket, str]) -> None:
    sock, address = heard
    world = FakeWorld()
    beating = asyncio.create_task(Manager(address, 30.0).beat(world))
    for _ in range(3):
        await world.advance(10)
        assert sock.recv(4096) == b"WATCHDOG=1"
    beating.cancel()
    await asyncio.wait({beating})


def test_without_a_manager_nothing_is_said() -> None:
    assert manager({}) == Manager()
    assert not Manager().tell("READY=1")
    assert Manager(watchdog_s=30).beat_s == 0


def test_a_manager_that_is_gone_harms_nobody(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Manager(str(short_dir / "nobody")).tell("READY=1")
    assert "did not take READY=1" in caplog.text


@pytest.mark.parametrize(("patience", "beat_s"), [("30000000", 10), ("x", 0), ("0", 0)])
def test_the_watchdog_is_kept_whomever_it_names(patience: str, beat_s: float) -> None:
    environment = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": patience, "WATCHDOG_PID": "1"}
    assert manager(environment).beat_s == beat_s


def test_workers_are_not_to_speak_to_it() -> None:
    assert without({"NOTIFY_SOCKET": "/run/n", "HOME": "/"}) == {"HOME": "/"}
