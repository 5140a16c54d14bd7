"""Logs: the last lines, rotation, following."""

import asyncio
import fcntl
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapless.fleet.follow import LINE_LIMIT, Line, Reader, _Identity, rotations
from gapless.fleet.logs import Logs, tail
from gapless.fleet.rotation import rotate, rotated, surplus
from gapless.testing.world import FakeWorld


@pytest.fixture
def log(tmp_path):
    return tmp_path / "a.log"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("abé\r ", max_size=9_000), max_size=8), st.integers(0, 10), st.booleans(), st.integers(0, 8))
def test_the_tail_is_the_last_lines(tmp_path, lines, wanted, ends, in_older):
    log, older = tmp_path / "a.log", rotated(tmp_path / "a.log", 1)
    text = [f"{line}\n" for line in lines]
    if text and not ends:
        text[-1] = text[-1][:-1] or "x"
    older.write_bytes("".join(text[:in_older]).encode())
    log.write_bytes("".join(text[in_older:]).encode())
    expected = "".join(text).removesuffix("\n").split("\n") if text else []
    assert tail(log, wanted) == "\n".join(expected[-wanted:] if wanted else [])


def test_a_tail_of_nothing(log):
    assert tail(log, 5) == ""
    log.write_bytes(b"")
    assert tail(log, 5) == ""


def test_a_tail_of_bytes_that_are_no_text(log):
    log.write_bytes(b"a\n\xff\xfe\n")
    assert tail(log, 1) == "\ufffd\ufffd"


def test_rotation_keeps_the_writers_file_and_a_number_of_older_ones(log):
    with open(log, "ab", buffering=0) as writer:
        for turn in range(6):
            writer.write(b"%d" % turn * 100)
            assert rotate(log, size_limit=100, kept=3)
            assert log.stat().st_size == 0
        writer.write(b"now")
    assert not rotate(log, size_limit=100)
    assert log.read_bytes() == b"now"
    assert [rotated(log, n).read_bytes()[:1] for n in (1, 2, 3)] == [b"5", b"4", b"3"]
    assert sorted(p.name for p in log.parent.iterdir()) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]


def test_no_log_no_rotation(log):
    assert not rotate(log)


@settings(deadline=None)
@given(
    st.dictionaries(st.text("abc", max_size=3), st.floats(0, 9)), st.sets(st.text("abc", max_size=3)), st.integers(0, 4)
)
def test_surplus_takes_the_oldest_forgotten_logs(logs, known, kept):
    gone = surplus(logs, known, kept)
    stay = set(logs) - set(gone) - known
    assert not set(gone) & known
    assert len(stay) == min(kept, len(set(logs) - known))
    assert all((logs[g], g) <= (logs[s], s) for g in gone for s in stay)


def test_logs_are_tended(tmp_path):
    logs = Logs(tmp_path)
    for name in ("a", "b"):
        logs.path(name).write_text("x\n")
        rotated(logs.path(name), 2).write_text("old\n")
    for number in range(101):
        logs.path(f"gone-{number}").write_text("")
        os.utime(logs.path(f"gone-{number}"), (number + 10, number + 10))
    os.utime(logs.path("b"), (1, 1))
    logs.tend({"a"})
    assert logs.names()[0] == "a"
    assert "b" not in logs.names()
    assert not rotated(logs.path("b"), 2).exists()
    assert rotated(logs.path("a"), 2).exists()
    assert len(logs.names()) == 1 + 100


def append(path, text):
    with open(path, "a") as writer:
        writer.write(text)


def test_a_reader_gives_each_line_once(log):
    reader = Reader(log, None)
    assert reader.read() == []
    append(log, "before\n")
    late = Reader(log, None)
    assert late.read() == []
    append(log, "one\ntw")
    assert late.read() == ["one"]
    append(log, "o\r\n")
    assert late.read() == ["two"]
    assert Reader(log, 0).read() == ["before", "one", "two"]


def test_a_reader_crosses_rotations(log):
    append(log, "a\n")
    reader = Reader(log, 0)
    assert reader.read() == ["a"]
    for turn in range(3):
        append(log, f"unread {turn}\nhalf")
        rotate(log, size_limit=1, kept=1)
        append(log, f" {turn}\nnext {turn}\n")
        assert reader.read() == [f"unread {turn}", f"half {turn}", f"next {turn}"]


def test_a_reader_crosses_several_rotations_at_once(log):
    for earlier in range(4):
        append(log, f"a {earlier}\n")
        reader = Reader(log, None)
        reader.read()
        for turn in range(1 + earlier % 3):
            append(log, f"{turn}\n{turn}-")
            rotate(log, size_limit=1)
        append(log, "end\n")
        assert "".join(reader.read()) == {0: "00-end", 1: "00-11-end", 2: "00-11-22-end"}[earlier % 3]


def test_rotations_that_leave_no_trace_count_as_all_that_are_seen():
    def files(*inodes):
        return [_Identity(inode, inode) for inode in inodes]

    assert rotations(files(1, 0, 0), files(1, 0, 0)) == 0
    assert rotations(files(0, 0, 0), files(1, 0, 0)) == 1
    assert rotations(files(0, 0, 0), files(2, 1, 0)) == 2
    assert rotations(files(1, 0, 0), files(3, 2, 1)) == 2
    assert rotations(files(1, 2, 3), files(7, 6, 5)) == 3


def test_a_reader_crosses_a_truncation(log):
    append(log, "a long line\n")
    reader = Reader(log, 0)
    assert reader.read() == ["a long line"]
    log.write_text("b\n")
    assert reader.read() == ["b"]


def test_a_reader_waits_while_the_log_is_rotated(log):
    append(log, "a\n")
    reader = Reader(log, 0)
    with open(log) as rotating:
        fcntl.flock(rotating, fcntl.LOCK_EX)
        assert reader.read() == []
    assert reader.read() == ["a"]


def test_an_endless_line_is_told_in_pieces(log):
    append(log, "x" * (LINE_LIMIT + 1))
    reader = Reader(log, 0)
    assert reader.read() == ["x" * LINE_LIMIT]
    append(log, "y\n")
    assert reader.read() == ["xy"]


async def test_many_logs_are_followed_in_order_of_arrival(tmp_path):
    world, logs, names, seen = FakeWorld(), Logs(tmp_path), ["a"], []

    async def read():
        async for line in logs.follow(lambda: names, world):
            seen.append(str(line))  # noqa: PERF401  it never ends

    reading = asyncio.create_task(read())
    try:
        append(logs.path("a"), "old\n")
        await world.advance(1)
        append(logs.path("a"), "one\n")
        await world.advance(1)
        append(logs.path("b"), "first\n")
        names.append("b")
        await world.advance(1)
        append(logs.path("a"), "two\n")
        await world.advance(1)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert seen == ["a | one", "b | first", "a | two"]
    assert Line("a", "x").text == "x"
