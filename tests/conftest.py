"""What all tests share: short directories for sockets, and the rule that a run leaves no process behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from gapless.core.garbage import THRESHOLDS

RUN_MARK = "GAPLESS_TEST_RUN"
"""Set in this run's environment and so inherited by whatever it starts, directly or not."""
PATIENCE_S = 3.0
"""For processes that are ending while the last test returns."""

# Few examples in every run, many now and then: make thorough
settings.register_profile("quick", max_examples=10, deadline=None)
settings.register_profile("thorough", max_examples=1_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# Else each of the thousand interpreters that the tests start compiles all of the product again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_leaks: pytest.StashKey[list[str]] = pytest.StashKey()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path: a Unix socket's path may have no more than 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="g-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _at_full_speed(request: pytest.FixtureRequest) -> Iterator[None]:
    """End-to-end tests look at whole systems in real time: their processes are not measured for coverage."""
    with pytest.MonkeyPatch.context() as patch:
        if "e2e" in request.path.parts:
            for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
                patch.delenv(name)
        yield


@pytest.fixture(scope="module", autouse=True)
def _litter_counts_where_it_fell(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a module leaves unclosed fails its own last test, and not the one in which the collector happens to run."""
    yield
    if "unit" not in request.path.parts:  # they open nothing, and are many
        gc.collect()


MOST_AGAIN = 3
"""More failures than that are no matter of a busy machine."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--alone",
        action="store_true",
        help="the second try of the few tests that failed while others ran beside them; refused for those that count "
        "lost requests, since one loss is one too many",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    gc.disable()  # what is collected stays: there is nothing to find


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """What has been imported and collected stays until the end, and is not looked at again by each full collection."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.getoption("--alone"):
        return
    strict = [item.nodeid for item in session.items if item.get_closest_marker("promise")]
    if strict:
        raise pytest.UsageError(f"no second try for a test that counts lost requests: {', '.join(strict)}")
    if len(session.items) > MOST_AGAIN:
        raise pytest.UsageError(f"{len(session.items)} tests failed: too many for a second try")


def pytest_sessionstart(session: pytest.Session) -> None:
    os.environ[RUN_MARK] = f"{os.getpid()}-{time.time_ns()}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when processes that it started are still there, and end them."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := _left_over()) and time.monotonic() < deadline:
        time.sleep(0.05)
    session.config.stash[_leaks] = [f"{pid}: {_command(pid)}" for pid in left]
    for pid in left:
        _kill(pid)
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    leaks = terminalreporter.config.stash.get(_leaks, [])
    if leaks:
        terminalreporter.section("processes left behind by the tests (killed now)", red=True)
        for line in leaks:
            terminalreporter.write_line(line)


def _left_over() -> list[int]:
    """Living descendants of this run: its children, and whatever carries its mark, also when it was orphaned."""
    me, mark = os.getpid(), f"{RUN_MARK}={os.environ.get(RUN_MARK, '-')}".encode()
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and int(entry) != me]
    return [pid for pid in pids if _ours(pid, me, mark) and "resource_tracker" not in _command(pid)]


def _ours(pid: int, me: int, mark: bytes) -> bool:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        if state in "ZX":
            return False
        return int(parent) == me or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it has just ended, or belongs to somebody else


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
