"""benchmarks/registry_kills.py in short: a real registry is killed under load, and breaks no promise. And the judge of
it, which must not take a broken one for kept."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
JUDGE = runpy.run_path(str(BENCHMARKS / "registry_ledger.py"))
PATH = "/v1/health/service/stock"


def kills(folder: Path, *options: str) -> tuple[int, str]:
    """The status and what was printed."""
    argv = [sys.executable, str(BENCHMARKS / "registry_kills.py"), "--instances", "50", "--dir", str(folder), *options]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        told, _ = process.communicate(timeout=110)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, told


@pytest.mark.slow
def test_five_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    # By this seed one process is killed while it starts, and another one stays away for longer than a time to live.
    status, told = kills(tmp_path, "--kills", "5", "--seed", "37")
    assert status == 0, told
    assert "5 kills under load with 50 instances, 1 more while starting" in told
    assert "broken promises          0\n" in told


@pytest.mark.slow
def test_a_store_that_lost_a_life_is_noticed(tmp_path: Path) -> None:
    status, told = kills(tmp_path, "--kills", "2", "--seed", "11", "--spoil")
    assert status == 1, told
    assert "after kill 2" in told
    assert "went back from" in told


@pytest.fixture
def ledger() -> Any:
    return JUDGE["Ledger"]()


def test_what_was_acknowledged_must_be_found(ledger: Any) -> None:
    ledger.acknowledged(**{"key a": 1})
    ledger.found("key a", 1)
    assert not ledger.breaches
    ledger.found("key a", 2)
    assert ledger.breaches == ["key a is 2, and 1 was acknowledged"]


def test_what_was_under_way_may_be_found_and_stays_then(ledger: Any) -> None:
    ledger.acknowledged(**{"key a": 1})
    ledger.asks(**{"key a": 2})
    ledger.found("key a", 2)
    assert (ledger.breaches, ledger.in_doubt) == ([], 1)
    ledger.found("key a", 1)
    assert ledger.breaches == ["key a is 1, and 2 was acknowledged"]


def test_a_removal_must_last(ledger: Any) -> None:
    ledger.acknowledged(**{"instance a": 80})
    ledger.acknowledged(**{"instance a": None})
    ledger.found("instance a", 80)
    assert ledger.breaches == ["instance a is 80, and None was acknowledged"]


def test_an_index_must_not_go_back_from_where_the_read_began(ledger: Any) -> None:
    ledger.answered(PATH, 0, 7, b"[]")
    ledger.answered(PATH, 0, 5, b"[]")  # sent before the other one was answered
    assert not ledger.breaches
    ledger.answered(PATH, ledger.index(PATH), 6, b"[]")
    assert ledger.breaches == [f"the index of {PATH} went back from 7 to 6"]


def test_there_is_no_index_below_one(ledger: Any) -> None:
    ledger.answered(PATH, 0, 0, b"[]")
    assert f"{PATH} has the index 0" in ledger.breaches[0]


def test_an_index_stands_for_one_content_in_any_order(ledger: Any) -> None:
    ledger.answered(PATH, 0, 7, b'["a", "b"]')
    ledger.answered(PATH, 7, 7, b'["b", "a"]')
    assert not ledger.breaches
    ledger.answered(PATH, 7, 7, b'["b"]')
    assert f"{PATH} changed and its index 7 did not" in ledger.breaches[0]


@pytest.mark.parametrize(("number", "kept"), [(1, False), (2, True), (3, True), (4, False)])
def test_a_counter_has_every_step_that_was_acknowledged_and_may_have_those_under_way(
    ledger: Any, number: int, kept: bool
) -> None:
    counter = JUDGE["Counter"](ledger)
    for done in (True, False, True):
        counter.asks()
        counter.answered(done=done)
    counter.asks()
    counter.found(number)
    assert (not ledger.breaches) == kept


def test_many_breaches_are_counted(ledger: Any) -> None:
    for number in range(JUDGE["SHOWN"] + 3):
        ledger.found("key a", number + 1)
    assert (len(ledger.breaches), ledger.more) == (JUDGE["SHOWN"], 3)
