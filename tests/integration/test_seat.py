"""The seat on a machine: who was deposed and does not rise is ended, and nobody else ever is."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gapless.control import seat as seats
from gapless.control.seat import Seat
from gapless.core.errors import StoreLocked
from gapless.core.world import RealWorld
from gapless.store._lock import FileLock

SIT = """
import sys, time
from pathlib import Path
from gapless.control.seat import Seat
from gapless.core.world import RealWorld
from gapless.store._lock import FileLock
state = Path(sys.argv[1])
Seat(state, RealWorld()).take() if sys.argv[2] == "leader" else FileLock(state / "store.db").take()
print("sits", flush=True)
time.sleep(600)
"""


@contextmanager
def sitting(state: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", SIT, str(state), how], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "sits\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_a_stopped_one_is_ended(tmp_path: Path) -> None:
    with sitting(tmp_path, "leader") as process:
        process.send_signal(signal.SIGSTOP)
        seat = Seat(tmp_path, RealWorld())
        with pytest.raises(StoreLocked, match=f"process {process.pid}"):
            seat.take()
        await seat.seize()
        assert process.wait(10) == -signal.SIGKILL
        seat.release()
        FileLock(tmp_path / "store.db").take()


async def test_one_on_the_embedded_store_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "GRACE_S", 0.1)
    monkeypatch.setattr(seats, "DEATH_S", 0.2)
    (tmp_path / "control.lock").write_text("1\n")
    with sitting(tmp_path, "embedded") as process:
        seat = Seat(tmp_path, RealWorld())
        with pytest.raises(StoreLocked, match=f"store.db is held by process {process.pid}"):
            await seat.seize()
        assert process.poll() is None


async def test_a_number_that_has_come_to_mean_another_process_is_left_alone(tmp_path: Path) -> None:
    with sitting(tmp_path, "embedded") as process:
        (tmp_path / "control.lock").write_text(f"{process.pid}\n")
        assert not seats.end(process.pid, tmp_path / "control.lock")
        assert process.poll() is None
