"""The lines of many logs, merged, chosen and shown."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gapless.cli.app import build
from gapless.fleet.history import LEVELS, Parser, Wanted, lines, merged


def line(at: float, message: str, level: str = "info", **more: Any) -> str:
    time = datetime.fromtimestamp(1_700_000_000 + at, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "level": level, "message": message, **more})


@pytest.fixture
def state() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="g-"))
    (path / "logs").mkdir()
    yield path
    shutil.rmtree(path)


def run(state: Path, *arguments: str) -> Any:
    return CliRunner().invoke(build("logs"), ["logs", "--state", str(state), *arguments])


def fill(state: Path) -> None:
    logs = state / "logs"
    (logs / "orders-1.log.1").write_text(line(1, "rotated away", trace_id="t1") + "\n")
    (logs / "orders-1.log").write_text(f"{line(3, 'paid', 'warning')}\nTraceback: a plain line\n{line(9, 'late')}\n")
    (logs / "orders-2.log").write_text(f"{line(2, 'first', trace_id='t1')}\n{line(4, 'broken', 'error', n=7)}\n")
    (logs / "envoy.log").write_text("[2023-11-14 22:13:25.500][7][warning][main] [x] envoy says\n")


def shown(result: Any) -> list[str]:
    assert result.exit_code == 0, result.output
    return [json.loads(each).get("message") or json.loads(each)["line"] for each in result.stdout.splitlines()]


def test_all_logs_come_in_the_order_of_time(state: Path) -> None:
    fill(state)
    found = shown(run(state, "--json"))
    assert found[:5] == ["rotated away", "first", "paid", "Traceback: a plain line", "broken"]
    assert "envoy says" in found[5]
    assert found[6] == "late"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["orders", "--trace", "t1"], ["rotated away", "first"]),
        (["--level", "error"], ["broken"]),
        (["orders", "--level", "warning"], ["paid", "Traceback: a plain line", "broken"]),
        (["--grep", "pa.d|first"], ["first", "paid"]),
        (["--instance", "orders-2"], ["first", "broken"]),
        (["orders", "--tail", "1"], ["late"]),
        (["orders", "-n", "0"], []),
        (["orders", "--since", "2023-11-14T22:13:24Z", "--until", "2023-11-14T22:13:25Z"], ["broken"]),
    ],
)
def test_lines_are_chosen(state: Path, arguments: list[str], expected: list[str]) -> None:
    fill(state)
    assert shown(run(state, *arguments, "--json")) == expected


def test_people_get_time_level_and_the_rest(state: Path) -> None:
    fill(state)
    text = run(state, "orders").stdout
    assert "ERROR   broken n=7" in text
    assert "orders-1 | Traceback: a plain line" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--level", "loud"], "there is none"),
        (["--grep", "("], "regular expression"),
        (["--since", "soon"], "neither a time ago nor a date"),
        (["nobody"], "there is no log of nobody"),
    ],
)
def test_mistakes_are_told(state: Path, arguments: list[str], told: str) -> None:
    fill(state)
    result = run(state, *arguments)
    assert result.exit_code != 0
    assert told in str(result.exception) + result.output


def test_a_clock_that_was_set_back_turns_no_log_around() -> None:
    parser = Parser("a")
    entries = [parser.entry(line(at, str(at))) for at in (5, 2, 7)]
    assert [entry.text for entry in sorted(entries, key=lambda entry: entry.at)] == [e.text for e in entries]


def test_odd_lines_are_lines(state: Path) -> None:
    path = state / "logs" / "x.log"
    path.write_bytes(b'{"time": "never", "level": 7}\n{broken\n[1, 2]\n\xff\xfe\n' + b"y" * 3_000_000)
    parser = Parser("x")
    entries = [parser.entry(text) for text in lines(path, path.stat().st_size)]
    assert len(entries) == 7
    assert {entry.level for entry in entries} == {LEVELS["info"]}


@given(st.lists(st.lists(st.integers(0, 50), max_size=10), max_size=4))
def test_nothing_is_lost_and_every_log_keeps_its_order(logs: list[list[int]]) -> None:
    given_logs = {f"i{n}": [line(at, f"{k}") for k, at in enumerate(log)] for n, log in enumerate(logs)}
    found = list(merged(given_logs, Wanted()))
    for name, texts in given_logs.items():
        assert [entry.text for entry in found if entry.instance == name] == texts
    assert [entry.at for entry in found] == sorted(entry.at for entry in found)
