"""Keeper and master as two ends in one process, the state in between, and what a new master makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.server import keeper
from gapless.server.generations import generation as g
from gapless.server.generations.succession import GRACE_S, catch_up, resume
from gapless.server.keeper import Keeper, Patience
from gapless.server.master.archive import Archive
from gapless.server.master.keep import Kept, inherit, legacy_of
from gapless.server.master.plain import from_plain, to_plain
from gapless.server.settings import Settings

PHASES = st.sampled_from(g.Phase)
MOMENTS = st.floats(0, 1e6) | st.just(g.NEVER)
WORKERS = st.builds(
    g.Worker, st.integers(1, 9), st.integers(1, 3), st.integers(0, 3), PHASES, MOMENTS, MOMENTS, MOMENTS, st.booleans()
)
STATES = st.builds(
    g.State,
    st.integers(1, 4),
    st.builds(g.Limits),
    current=st.integers(1, 3),
    coming=st.integers(0, 3),
    workers=st.lists(WORKERS, max_size=4, unique_by=lambda worker: worker.key).map(tuple),
    slots=st.lists(st.builds(g.Slot, st.integers(0, 5), MOMENTS), min_size=4, max_size=4).map(tuple),
    leaving=st.booleans(),
)


@given(STATES)
def test_a_state_comes_back_as_it_was_and_what_is_unknown_is_ignored(state: g.State) -> None:
    plain = to_plain(state)
    for worker in plain["workers"]:
        worker["mood"] = "good"
    assert from_plain(g.State, {**plain, "later": {}}) == state


def test_what_an_older_writer_did_not_know_gets_its_default() -> None:
    settings = Settings("shop:app", binds=("127.0.0.1:1", "unix:x"), pid_file="pid")
    plain = to_plain(settings)
    del plain["drain_s"]
    assert from_plain(Settings, plain) == settings


@given(STATES, st.sets(st.integers(1, 9)), st.floats(0, 1e6))
def test_a_new_master_knows_exactly_the_workers_that_are_there(state: g.State, there: set[int], now: float) -> None:
    after, actions = resume(state, there, now)
    assert {worker.key for worker in after.workers} == {worker.key for worker in state.workers} & there
    assert all(worker.deadline >= now + GRACE_S and worker.beat_at >= now for worker in after.workers)
    for worker in state.workers:
        serves = worker.generation == state.current and worker.phase is not g.Phase.LEAVING and not worker.replaces
        if serves and worker.key not in there:
            assert after.slots[worker.slot].retry_at == now
    doomed = {w.key for w in after.workers if w.phase is g.Phase.LEAVING and w.deadline == g.NEVER}
    assert {action.key for action in actions if isinstance(action, g.Kill)} == doomed


SAYS = ["starting", "prepared", "serving", "paused", "leaving", "singing"]


@given(STATES, st.sampled_from(SAYS), st.booleans())
def test_what_a_worker_says_never_contradicts_its_phase(state: g.State, says: str, accepting: bool) -> None:
    for worker in state.workers:
        events, actions = catch_up(state, worker.key, says, accepting)
        # One that had paused before it was told to leave has stopped, and has yet to hear the other.
        assert len(events) + len(actions) <= 1 or (says == "paused" and worker.phase is g.Phase.LEAVING)
        assert len(events) <= 1
        assert len(actions) <= 1
        assert not accepting or not any(isinstance(event, g.Stopped) for event in events)
        if worker.phase is g.Phase.LEAVING:
            assert all(isinstance(event, g.Stopped) for event in events)
    assert catch_up(state, 99, says, accepting) == ([], [])


P = g.Phase


@pytest.mark.parametrize(
    ("says", "phase", "event", "action"),
    [
        ("starting", P.STARTING, None, None),
        ("prepared", P.STARTING, g.Prepared, None),
        ("prepared", P.CARRYING, g.Carried, None),
        ("prepared", P.COMMITTED, None, g.Commit),
        ("serving", P.COMMITTED, g.Serving, None),
        ("serving", P.PAUSED, None, g.Pause),
        ("paused", P.COMMITTED, None, g.Recall),
        ("leaving", P.SERVING, g.Left, None),
        ("serving", P.LEAVING, None, g.Retire),
        ("prepared", P.LEAVING, None, g.Kill),
        ("serving", P.SERVING, None, None),
    ],
)
def test_what_was_missed_and_what_was_never_told(says: str, phase: P, event: type | None, action: type | None) -> None:
    state = g.State(1, g.Limits(), workers=(g.Worker(1, 1, 0, phase, 0.0, 0.0),))
    events, actions = catch_up(state, 1, says, says == "serving")
    assert list(map(type, events)) == [event] * (event is not None)
    assert list(map(type, actions)) == [action] * (action is not None)


def test_counters_go_on_with_another_master() -> None:
    sample = {"name": "n", "kind": "counter", "help": "", "labels": [], "values": [[[], 3.0]]}
    first, second = Archive(), Archive()
    first.restarts = 2
    first.add(1, [sample])
    first.total({1: [sample], 2: [sample]})
    second.resume(first.as_plain())
    second.add(1, [sample])  # its last words once more
    assert (second.restarts, second.masters, second.shown) == (2, 2, {2: [sample]})
    assert [value for one in second.total({}) if one["name"] == "n" for _, value in one["values"]] == [3.0]


@contextmanager
def ends(command: list[str] | None = None) -> Iterator[tuple[Keeper, socket.socket]]:
    """A keeper whose master is this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Keeper(ours, os.getpid(), command or []), theirs


def tell(keeper_: Keeper, sock: socket.socket, verb: str, text: str = "", fds: tuple[int, ...] = ()) -> None:
    keeper.send(sock, keeper.pack(verb, text), fds)
    keeper_._hear()


def test_what_is_held_is_replaced_and_closed() -> None:
    with ends() as (kept, master), open(os.devnull) as file:
        before = len(os.listdir("/proc/self/fd"))
        tell(kept, master, "H", "listen:0", (file.fileno(), file.fileno()))
        assert len(os.listdir("/proc/self/fd")) == before + 2
        tell(kept, master, "H", "listen:0", (file.fileno(),))
        assert len(os.listdir("/proc/self/fd")) == before + 1
        tell(kept, master, "?", "of a later version", (file.fileno(),))
        tell(kept, master, "D", "listen:0")
        tell(kept, master, "D", "listen:0")
        assert len(os.listdir("/proc/self/fd")) == before
        assert kept.held == {}


@pytest.mark.parametrize(("status", "code"), [(0, 0), (6, 6), (-9, 137)])
def test_a_master_that_never_was_ready_is_the_end(status: int, code: int) -> None:
    with ends() as (kept, _):
        kept._died(status)
        assert kept.code == code


def test_a_master_that_was_told_to_end_is_the_end() -> None:
    with ends() as (kept, master):
        tell(kept, master, "S", "1 0")
        tell(kept, master, "S", "0 130")
        kept._died(None)
        assert kept.code == 130


def test_a_master_that_dies_again_and_again_is_waited_for_longer_and_longer() -> None:
    assert [keeper.backoff(deaths) for deaths in (1, 2, 3, 4)] == [0, 0.1, 0.2, 0.4]
    assert keeper.backoff(1000) == keeper.BACKOFF_LAST_S


def test_a_keeper_gives_up_only_when_nobody_serves_or_it_was_told_to_stop(capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ends() as (kept, master):
        tell(kept, master, "S", "1 0")
        kept._began = float("inf")  # no master lives for long enough to be called stable
        tell(kept, master, "H", "worker:1", (ours.fileno(),))
        ours.close()
        for _ in range(3 * keeper.HOPELESS):
            kept._died(-9)
        assert kept.code is None
        theirs.close()
        kept._died(-9)
        assert kept.code == 1
        kept._let_go("worker:1")
    assert "cannot be kept alive" in capfd.readouterr().err


def test_signals_without_a_master_wait_for_the_next_one() -> None:
    with ends() as (kept, master):
        tell(kept, master, "S", "1 0")
        kept._died(-9)
        kept._signalled(bytes([signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD]))
        kept._tell_ended(77, -9)
        facts = legacy_of({}, kept.facts())
        assert (facts.pid, facts.stops, facts.ended, facts.deaths) == (os.getpid(), [signal.SIGTERM], {77: -9}, 1)
        assert facts.before == f"{os.getpid()}:-9"
        assert kept._missed == [signal.SIGHUP]


def test_facts_of_another_version_are_read_as_far_as_they_go() -> None:
    legacy = legacy_of({}, "pid=7 song=1")
    assert (legacy.pid, legacy.stops, legacy.ended, legacy.deaths) == (7, [], {}, 0)


def test_a_master_that_says_nothing_for_too_long_is_lost() -> None:
    patience = Patience()
    assert not patience.lost(1e9), "nobody asked for it to be watched"
    patience.renew(3.0, 100.0)
    assert [patience.lost(now) for now in (100.9, 101.0, 101.9, 102.0, 103.0)] == [False, False, False, False, True]
    patience.renew(3.0, 103.5)
    assert not patience.lost(104.4)


def test_a_machine_that_slept_has_not_waited() -> None:
    patience = Patience()
    patience.renew(3.0, 100.0)
    assert [patience.lost(now) for now in (9000.0, 9000.5, 9001.0)] == [False, False, False]
    assert patience.lost(9002.0)


@given(st.lists(st.floats(0.01, 0.99), min_size=1))
def test_a_master_that_says_so_in_time_is_never_lost(pauses: list[float]) -> None:
    patience, now = Patience(), 0.0
    patience.renew(3.0, now)
    for pause in pauses:
        now += 2 * pause
        assert not patience.lost(now)
        patience.renew(3.0, now)


async def test_a_master_and_its_keeper() -> None:
    heard: list[object] = []
    before = len(os.listdir("/proc/self/fd"))
    with ends() as (held, sock), open(os.devnull) as file:
        kept = Kept(sock, 7)
        kept.begin(heard.append, lambda pid, status: heard.append((pid, status)), 30.0)
        kept.hold("listen:0", [file.fileno()])
        kept.save("state", {"a": 1})
        kept.save("state", {"a": 2})
        kept.stay(True)
        held._hear()
        held._pidfd = 99
        held._signalled(bytes([signal.SIGUSR2]))
        held._tell_ended(5, 3)
        held._flush()
        while len(heard) < 2:
            await asyncio.sleep(0)
        assert heard == [signal.SIGUSR2, (5, 3)]
        assert list(held.held) == ["listen:0", "state"]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for name, fds in held.held.items():
            keeper.send(ours, keeper.pack("H", name), fds)
        keeper.send(ours, keeper.pack("G", "pid=7 before=6:-9"), [])
        heir, legacy = inherit(theirs)
        assert legacy.value("state") == {"a": 2}
        assert legacy.value("archive") is None
        for end in (kept, heir):
            for name in ("listen:0", "state"):
                end.drop(name)
        held._hear()
        asyncio.get_running_loop().remove_reader(sock.fileno())
        ours.close()
        theirs.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_keeper_that_has_gone_before_its_master_listens_is_noticed_when_it_does() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signals: list[int] = []
    kept = Kept(ours, os.getpid())
    handlers = {number: signal.getsignal(number) for number in keeper.FORWARDED}
    theirs.close()
    try:
        with socket.socket() as listener:
            kept.hold("listen:0", [listener.fileno()])
        kept.begin(signals.append, lambda pid, status: None, 60.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert signals == [signal.SIGTERM]
