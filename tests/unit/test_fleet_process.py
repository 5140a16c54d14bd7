"""Who a process is, read from /proc: pure parts."""

import contextlib
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.fleet.process import (
    Found,
    Stat,
    describe_status,
    exit_status,
    hold,
    kill,
    kill_children,
    leaders,
    members,
    parse_mark,
    parse_stat,
    read_mark,
    read_stat,
    scan,
    send,
)


def found(pid, session, instance="", began=1):
    return Found(stat=Stat(pid=pid, state="S", parent=1, session=session, began=began), instance=instance)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=15).filter(lambda t: "\0" not in t))
def test_a_command_may_have_any_name(name):
    line = f"12 ({name}) S 1 12 7 34816 12 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 0 0"
    assert parse_stat(line) == Stat(pid=12, state="S", parent=1, session=7, began=98765)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (b"A=1\0GAPLESS_STATE=/s\0GAPLESS_INSTANCE=x-1\0", "x-1"),
        (b"GAPLESS_INSTANCE=x-1\0GAPLESS_STATE=/s\0", "x-1"),
        (b"GAPLESS_STATE=/s2\0GAPLESS_INSTANCE=x-1\0", ""),
        (b"GAPLESS_STATE=/s\0", ""),
        (b"XGAPLESS_STATE=/s\0GAPLESS_INSTANCE=x-1\0", ""),
        (b"", ""),
    ],
)
def test_marks(environ, expected):
    assert parse_mark(environ, "/s") == expected


def test_the_oldest_session_leader_is_the_instance():
    here = [found(9, 9, "a", 30), found(5, 5, "a", 20), found(4, 1, "a", 10), found(7, 7), found(8, 8, "b", 40)]
    assert {name: stat.pid for name, stat in leaders(here).items()} == {"a": 5, "b": 8}


def test_members_are_the_named_and_those_of_their_session():
    here = [found(5, 5, "a"), found(6, 5), found(7, 5, "a"), found(8, 8, "b"), found(9, 9)]
    assert [s.pid for s in members(here, "a", 0)] == [5, 6, 7]


def test_members_of_a_dead_leader():
    assert [s.pid for s in members([found(6, 5, "a"), found(7, 5)], "a", 0)] == [6, 7]
    assert [s.pid for s in members([found(7, 5)], "a", 5)] == [7]
    assert [s.pid for s in members([found(7, 5)], "a", 0)] == []


def test_a_terminal_in_which_somebody_runs_a_copy_is_not_taken_along():
    shell, copy, editor = found(20, 20), found(21, 20, "a"), found(22, 20)
    assert [s.pid for s in members([shell, copy, editor], "a", 0)] == [21]


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "exited with status 0"), (3, "exited with status 3"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")],
)
def test_how_it_ended(status, text):
    assert describe_status(status) == text


def test_this_process_can_be_held_but_is_not_found():
    stat = read_stat(os.getpid())
    assert stat
    assert not stat.dead
    handle = hold(stat)
    assert handle is not None
    send(handle, 0)
    os.close(handle)
    assert os.getpid() not in {one.stat.pid for one in scan("/nowhere")}
    assert read_mark(os.getpid(), "/nowhere") == ""


def test_a_number_that_was_given_away_is_not_hit():
    stat = read_stat(os.getpid())
    assert stat
    other = Stat(pid=stat.pid, state="S", parent=1, session=stat.session, began=stat.began - 1)
    assert hold(other) is None
    kill(other)  # or this test would not end


def test_only_children_with_a_session_of_their_own_are_killed_as_a_group():
    kill_children(os.getpid())
    kill_children(os.getppid())
    kill_children(1 << 30)


def test_what_is_gone_is_none():
    pid = os.fork()
    if not pid:
        os._exit(0)
    dead = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert dead
    stat = read_stat(pid)
    assert stat
    assert stat.dead
    assert hold(stat) is None
    handle = os.pidfd_open(pid)
    with contextlib.suppress(BlockingIOError):
        assert exit_status(handle) is None  # an older kernel; a newer one does not tell before the parent has looked
    os.waitpid(pid, 0)
    assert exit_status(handle) in (0, None)
    send(handle, signal.SIGTERM)
    os.close(handle)
    assert read_stat(pid) is None
    assert read_mark(pid, "/s") == ""
    assert hold(stat) is None
