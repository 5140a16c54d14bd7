"""The test kit for code under guards: a clock that the test moves, and faults by share."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from gapless.core.errors import ConfigError
from gapless.core.world import RealWorld
from gapless.resilience.breaker import breaker
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import BreakerOpen, DeadlineExceeded, RateLimited
from gapless.resilience.guard import guard
from gapless.resilience.rate import rate
from gapless.resilience.retry_layer import retry
from gapless.testing import FakeWorld, fake_clock, fault

payments = guard("payments", deadline(2.0), rate("2/h"))
"""Made before any test's clock, as modules do."""


@payments
async def charge(wait_s: float) -> str:
    await asyncio.sleep(wait_s)
    return "charged"


async def test_a_guard_that_was_made_before_obeys_the_clock() -> None:
    began = time.monotonic()
    with fake_clock(payments) as clock:
        late = asyncio.create_task(charge(60))
        await clock.advance(2.1)
        with pytest.raises(DeadlineExceeded):
            await late
        assert await clock.run(charge(1.5)) == "charged"
        with pytest.raises(RateLimited):
            await charge(0)
        await clock.advance(3600)
        assert await charge(0) == "charged"
    assert time.monotonic() - began < 5
    assert await charge(0) == "charged"
    assert payments.statistics()["policies"]["rate"]["rejected"] == 0, "it began anew"


async def test_everything_is_as_before_after_the_block() -> None:
    sleep, now, names = asyncio.sleep, RealWorld().now(), dict(vars(RealWorld))
    with contextlib.suppress(RuntimeError), fake_clock(payments):
        assert RealWorld().now() == 0.0
        raise RuntimeError
    assert asyncio.sleep is sleep
    assert RealWorld().now() >= now
    assert dict(vars(RealWorld)) == names
    await asyncio.sleep(0)


async def test_jitter_and_pauses_are_the_same_each_time() -> None:
    async def attempt() -> float:
        with fake_clock(seed=3) as clock:
            again = guard("again", retry(on=ValueError, attempts=4, idempotent=True, base=1.0))

            @again
            async def fail() -> None:
                raise ValueError

            with pytest.raises(ValueError, match=r"^$"):
                await clock.run(fail())
            return clock.now()

    first = await attempt()
    assert 0 < first == await attempt()


async def test_what_never_ends_is_told() -> None:
    with fake_clock() as clock, pytest.raises(TimeoutError, match="still waits after 1 s"):
        await clock.run(asyncio.Event().wait(), limit_s=1)


def test_code_without_a_loop_can_skip_time() -> None:
    with fake_clock() as clock:
        single = guard("single", rate("1/h"))

        @single
        def call() -> None:
            return

        call()
        with pytest.raises(RateLimited):
            call()
        clock.skip(3600)
        call()


async def hits(share: float, seed: int = 0) -> list[bool]:
    faulty = guard("faulty", fault(errors=share, error=OSError, seed=seed), world=FakeWorld())

    @faulty
    async def call() -> bool:
        return False

    found = []
    for _ in range(400):
        try:
            found.append(await call())
        except OSError:
            found.append(True)
    assert faulty.statistics()["policies"]["fault"]["failed"] == sum(found)
    return found


async def test_errors_come_by_share_and_by_seed() -> None:
    some = await hits(0.1)
    assert 20 <= sum(some) <= 60
    assert some == await hits(0.1)
    assert some != await hits(0.1, seed=1)
    assert sum(await hits(0.0)) == 0
    assert sum(await hits(1.0)) == 400
    more = await hits(0.3)
    assert all(more[i] for i, hit in enumerate(some) if hit), "a greater share only adds"


async def test_latency_and_lost_answers() -> None:
    made: list[int] = []
    with fake_clock() as clock:
        faulty = guard("faulty", deadline(1.0), fault(latency=(0.5, 0.8), lost=1.0, error=lambda: OSError("lost")))

        @faulty
        async def call() -> None:
            made.append(1)

        with pytest.raises(OSError, match="lost"):
            await clock.run(call())
        assert 0.5 <= clock.now() <= 0.81
        assert made == [1]
        faulty.replace(deadline(0.2), fault(latency=0.5))
        with pytest.raises(DeadlineExceeded):
            await clock.run(call())
        assert faulty.statistics()["policies"]["fault"] == {"failed": 0, "lost": 1, "delayed": 2}


def test_faults_meet_what_lies_further_out() -> None:
    broken = guard("broken", breaker(window=4, minimum=4), fault(errors=1.0, error=OSError("down")), world=FakeWorld())

    @broken
    def call() -> None:
        raise AssertionError("never made")

    for _ in range(4):
        with pytest.raises(OSError, match="down"):
            call()
    with pytest.raises(BreakerOpen):
        call()


@pytest.mark.parametrize("given", [{"errors": 1.5}, {"lost": -0.1}, {"latency": (2.0, 1.0)}, {"latency": -1.0}])
def test_what_cannot_be_meant_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="fault: "):
        fault(**given)  # type: ignore[arg-type]
