"""The pool's decisions against what must always hold, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gapless.resilience.pool_state import PoolState, Slot


class Machine(RuleBasedStateMachine):
    """Borrowers are numbers in the order of their coming; connections are numbers in the order of their opening."""

    @initialize(max_size=st.integers(1, 4), data=st.data())
    def begin(self, max_size: int, data: st.DataObject) -> None:
        self.state: PoolState[int, int] = PoolState(max_size, data.draw(st.integers(0, max_size)))
        self.now = 0.0
        self.next_borrower = self.next_connection = 0
        self.queue: list[int] = []
        self.lent: dict[int, Slot[int]] = {}
        self.held: list[Slot[int]] = []
        self.opening = 0

    def granted(self, borrower: int | None, slot: Slot[int]) -> None:
        """Only ever to the first in the queue."""
        if borrower is None:
            assert not self.queue
            return
        assert self.queue.pop(0) == borrower
        assert slot not in self.lent.values()
        self.lent[borrower] = slot

    def open_wanted(self) -> None:
        self.opening += self.state.wanted()

    @rule()
    def acquire(self) -> None:
        borrower, self.next_borrower = self.next_borrower, self.next_borrower + 1
        slot = self.state.take(self.now, None)
        if slot is not None:
            assert not self.queue, "a newcomer went before a waiter"
            self.lent[borrower] = slot
            return
        self.state.queue(borrower, None)
        self.queue.append(borrower)
        self.open_wanted()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        borrower = data.draw(st.sampled_from(self.queue))
        self.queue.remove(borrower)
        self.state.leave(borrower)

    @precondition(lambda self: self.opening)
    @rule()
    def opened(self) -> None:
        self.opening -= 1
        slot = Slot(self.next_connection, self.now)
        self.next_connection += 1
        self.granted(self.state.opened(slot, self.now), slot)

    @precondition(lambda self: self.opening)
    @rule()
    def not_opened(self) -> None:
        self.opening -= 1
        told = self.state.not_opened()
        assert told == (self.queue.pop(0) if self.queue else None)
        self.open_wanted()

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        slot = self.lent.pop(data.draw(st.sampled_from(sorted(self.lent))))
        self.granted(self.state.give_back(slot, self.now), slot)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def break_one(self, data: st.DataObject) -> None:
        slot = self.lent.pop(data.draw(st.sampled_from(sorted(self.lent))))
        self.state.drop(slot)
        self.held.append(slot)

    @precondition(lambda self: self.state.idle)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(list(self.state.idle)))
        self.state.hold(slot)
        self.held.append(slot)

    @precondition(lambda self: self.held)
    @rule(sound=st.booleans())
    def release(self, sound: bool) -> None:
        slot = self.held.pop(0)
        if sound:
            self.granted(self.state.checked(slot, self.now), slot)
        else:
            self.state.freed()
            self.open_wanted()

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0]))
    def look(self, seconds: float) -> None:
        self.now += seconds
        for slot in self.state.expired(self.now, 5.0):
            self.state.hold(slot)
            self.held.append(slot)
        for slot in self.state.leaks(self.now, 3.0):
            assert self.now - slot.lent_at >= 3.0
        assert not self.state.leaks(self.now, 3.0), "told twice"

    @invariant()
    def never_too_many(self) -> None:
        state = self.state
        assert state.size == len(state.idle) + len(self.lent) + self.opening + len(self.held)
        assert state.size <= state.max_size

    @invariant()
    def lent_once(self) -> None:
        connections = [slot.connection for slot in (*self.state.idle, *self.lent.values(), *self.held)]
        assert len(connections) == len(set(connections))
        assert set(self.state.out) == set(self.lent.values())

    @invariant()
    def queue_in_order(self) -> None:
        assert list(self.state.waiters) == self.queue
        assert not (self.queue and self.state.idle), "somebody waits beside an idle connection"

    @invariant()
    def nobody_is_stuck(self) -> None:
        """A waiter waits for something that will come."""
        if self.queue:
            assert self.lent or self.opening or self.held

    @invariant()
    def idle_is_ordered_by_age(self) -> None:
        moments = [slot.idle_at for slot in self.state.idle]
        assert moments == sorted(moments)

    @invariant()
    def oldest_is_the_oldest(self) -> None:
        ages = [self.now - slot.lent_at for slot in self.lent.values()]
        assert self.state.oldest_age_s(self.now) == max(ages, default=0.0)


Machine.TestCase.settings = settings(stateful_step_count=25)
TestPoolState = Machine.TestCase


def test_checks_at_most_half_of_the_idle_ones_at_once() -> None:
    state: PoolState[int, int] = PoolState(4)
    state.idle.extend(Slot(number, 0.0) for number in range(4))
    assert [slot.connection for slot in state.unchecked(10.0, 5.0)] == [0, 1]
    assert state.unchecked(4.0, 5.0) == []
    assert len(PoolState(4, idle=type(state.idle)([Slot(1, 0.0)])).unchecked(10.0, 5.0)) == 1


def test_keeps_the_minimum() -> None:
    state: PoolState[int, int] = PoolState(4, 3)
    assert state.wanted() == 3
    for number in range(3):
        state.opened(Slot(number, 0.0), 0.0)
    assert state.expired(100.0, 5.0) == []
    assert state.wanted() == 0
