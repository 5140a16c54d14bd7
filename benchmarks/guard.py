"""What a guard costs: net µs of CPU per call over a bare call, beside its peers, in one run.

    python benchmarks/guard.py [--calls 20000] [--runs 9] [--only gapless,tenacity]

Rows are policies around a function that returns at once, columns are libraries; a cell is the median of the runs and
half the distance between its quartiles. All columns take turns in each run, so that a busy machine is busy for all.
Peers that are not installed say so: `make peers` installs them (grelmicro by hand: it wants a newer Python).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

Cells = dict[str, Callable[..., Any]]
TARGETS = {  # µs, async and sync
    "breaker": (0.8, 0.6), "retry": (0.4, 0.3), "deadline": (1.0, None), "limit": (0.6, None),
    "rate by key": (0.5, None), "pipeline": (3.0, None), "pipeline, hedged": (3.0, None),
}  # fmt: skip
KEYS = [f"user{number}" for number in range(1000)]


async def bare(user: str) -> str:
    return user


def bare_sync(user: str) -> str:
    return user


def gapless_cells() -> tuple[Cells, Cells]:
    from gapless import adaptive, breaker, deadline, fallback, guard, last, limit, rate, ratio, retry
    from gapless.resilience.errors import Rejected

    once = retry(attempts=3, budget=ratio(0.2), idempotent=True)
    stops = breaker(rate=0.5, slow=1.0, window=last(100), probes=3)
    paced = rate("1000000000/s", key="{user}")
    rows: dict[str, list[Any]] = {
        "no policy": [],
        "deadline": [deadline(2.0)],
        "fallback": [fallback(None, on=Rejected)],
        "retry": [once],
        "breaker": [stops],
        "rate by key": [paced],
        "bulkhead": [limit(200)],
        "limit": [limit(adaptive(max=200))],
        "four": [deadline(2.0), once, stops, limit(200)],
        "pipeline": [deadline(2.0), fallback(None, on=Rejected), once, stops, paced, limit(adaptive(max=200))],
    }
    try:
        from gapless import hedge

        hedged = hedge(after="p95")
    except ImportError:
        print("gapless: no hedge yet")
    else:
        rows["hedge"] = [hedged]
        rows["pipeline, hedged"] = [*rows["pipeline"][:3], hedged, *rows["pipeline"][3:]]
    calls: Cells = {row: guard(row, *policies)(_idempotent(bare)) for row, policies in rows.items()}
    calls_sync: Cells = {
        row: guard(row, *policies)(_idempotent(bare_sync)) for row, policies in rows.items() if "hedge" not in row
    }
    return calls, calls_sync


def _idempotent(function: Callable[..., Any]) -> Callable[..., Any]:
    from gapless import idempotent

    return idempotent(function)


def stdlib_cells() -> tuple[Cells, Cells]:
    places = asyncio.Semaphore(200)

    async def limited(user: str) -> str:
        async with places:
            return await bare(user)

    async def timed(user: str) -> str:
        async with asyncio.timeout(2.0):
            return await bare(user)

    return {"bulkhead": limited, "deadline": timed}, {}


def interlock_cells() -> tuple[Cells, Cells]:
    from interlock import BulkheadStrategy, CircuitBreaker, CircuitBreakerStrategy, Config, Pipeline, TimeoutStrategy

    config = Config(failure_rate_threshold=0.5, slow_call_duration_threshold=1.0, slow_call_rate_threshold=0.5)

    def stops(name: str) -> CircuitBreaker:
        return CircuitBreaker(name=name, config=config)

    rows = {
        "deadline": Pipeline(TimeoutStrategy(2.0)),
        "bulkhead": Pipeline(BulkheadStrategy(max_concurrent=200)),
        "four": Pipeline(
            TimeoutStrategy(2.0), CircuitBreakerStrategy(stops("four")), BulkheadStrategy(max_concurrent=200)
        ),
    }
    calls: Cells = {row: pipeline(bare) for row, pipeline in rows.items()}
    return {"breaker": stops("async")(bare), **calls}, {"breaker": stops("sync")(bare_sync)}


def pyresilience_cells() -> tuple[Cells, Cells]:
    from pyresilience import BulkheadConfig, CircuitBreakerConfig, RetryConfig, TimeoutConfig, resilient

    rows: dict[str, dict[str, Any]] = {
        "retry": {"retry": RetryConfig(max_attempts=3)},
        "breaker": {"circuit_breaker": CircuitBreakerConfig(failure_threshold=5)},
        "bulkhead": {"bulkhead": BulkheadConfig(max_concurrent=200)},
    }
    timed = {"timeout": TimeoutConfig(seconds=2)}
    four: dict[str, Any] = {**rows["retry"], **rows["breaker"], **rows["bulkhead"], **timed}
    calls: Cells = {row: resilient(**each)(bare) for row, each in {**rows, "deadline": timed, "four": four}.items()}
    return calls, {row: resilient(**each)(bare_sync) for row, each in rows.items()}


def grelmicro_cells() -> tuple[Cells, Cells]:
    from grelmicro.resilience import CircuitBreaker

    stops = CircuitBreaker("async")

    async def called(user: str) -> str:
        async with stops:
            return await bare(user)

    return {"breaker": called}, {}


def tenacity_cells() -> tuple[Cells, Cells]:
    from tenacity import retry, stop_after_attempt, wait_random_exponential

    again = retry(stop=stop_after_attempt(3), wait=wait_random_exponential())
    return {"retry": again(bare)}, {"retry": again(bare_sync)}


def stamina_cells() -> tuple[Cells, Cells]:
    import stamina

    again = stamina.retry(on=ConnectionError, attempts=3)
    return {"retry": again(bare)}, {"retry": again(bare_sync)}


def pybreaker_cells() -> tuple[Cells, Cells]:
    from pybreaker import CircuitBreaker

    return {}, {"breaker": CircuitBreaker(fail_max=5)(bare_sync)}


def purgatory_cells() -> tuple[Cells, Cells]:
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory

    return {"breaker": AsyncCircuitBreakerFactory()("a")(bare)}, {
        "breaker": SyncCircuitBreakerFactory()("s")(bare_sync)
    }


def aiobreaker_cells() -> tuple[Cells, Cells]:
    from aiobreaker import CircuitBreaker

    return {"breaker": CircuitBreaker(fail_max=5)(bare)}, {"breaker": CircuitBreaker(fail_max=5)(bare_sync)}


def limits_cells() -> tuple[Cells, Cells]:
    from limits import RateLimitItemPerSecond
    from limits.aio.storage import MemoryStorage as AsyncMemory
    from limits.aio.strategies import FixedWindowRateLimiter as AsyncFixed
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    item, fixed, fixed_async = (
        RateLimitItemPerSecond(10**9), FixedWindowRateLimiter(MemoryStorage()), AsyncFixed(AsyncMemory())
    )  # fmt: skip

    async def paced(user: str) -> str:
        await fixed_async.hit(item, user)
        return await bare(user)

    def paced_sync(user: str) -> str:
        fixed.hit(item, user)
        return bare_sync(user)

    return {"rate by key": paced}, {"rate by key": paced_sync}


def throttled_cells() -> tuple[Cells, Cells]:
    from throttled import MemoryStore, RateLimiterType, Throttled, per_sec

    bucket = Throttled(
        using=RateLimiterType.TOKEN_BUCKET.value, quota=per_sec(10**9), store=MemoryStore(options={"MAX_SIZE": 10**6})
    )

    def paced_sync(user: str) -> str:
        bucket.limit(user)
        return bare_sync(user)

    return {}, {"rate by key": paced_sync}


def aiolimiter_cells() -> tuple[Cells, Cells]:
    from aiolimiter import AsyncLimiter

    buckets = {key: AsyncLimiter(10**9, 1.0) for key in KEYS}

    async def paced(user: str) -> str:
        async with buckets[user]:
            return await bare(user)

    return {"rate by key": paced}, {}


def pyrate_cells() -> tuple[Cells, Cells]:
    from pyrate_limiter import Duration, InMemoryBucket, Limiter, Rate

    buckets = {key: Limiter(InMemoryBucket([Rate(10**4, Duration.SECOND)])) for key in KEYS[:50]}

    def paced_sync(user: str) -> str:
        buckets[KEYS[hash(user) % 50]].try_acquire(user, blocking=False)
        return bare_sync(user)

    return {}, {"rate by key": paced_sync}


COLUMNS: dict[str, Callable[[], tuple[Cells, Cells]]] = {
    "gapless": gapless_cells, "stdlib": stdlib_cells, "interlock-cb": interlock_cells,
    "pyresilience": pyresilience_cells, "grelmicro": grelmicro_cells, "tenacity": tenacity_cells,
    "stamina": stamina_cells, "pybreaker": pybreaker_cells, "purgatory": purgatory_cells,
    "aiobreaker": aiobreaker_cells, "limits": limits_cells, "throttled-py": throttled_cells,
    "aiolimiter": aiolimiter_cells, "pyrate-limiter": pyrate_cells,
}  # fmt: skip


async def timed(call: Callable[..., Any], calls: int) -> float:
    """µs of CPU per call. One loop's turn now and then, as in a service."""
    keys = (KEYS * (calls // len(KEYS) + 1))[:calls]
    await asyncio.sleep(0)
    began = time.process_time()
    for key in keys:
        await call(key)
    return (time.process_time() - began) / calls * 1e6


def timed_sync(call: Callable[..., Any], calls: int) -> float:
    keys = (KEYS * (calls // len(KEYS) + 1))[:calls]
    began = time.process_time()
    for key in keys:
        call(key)
    return (time.process_time() - began) / calls * 1e6


class Table:
    """Net costs by row and column."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], list[float]] = {}

    def add(self, row: str, column: str, cost: float) -> None:
        self.cells.setdefault((row, column), []).append(cost)

    def show(self, title: str, targets: dict[str, float | None]) -> None:
        print(f"\n{title}: net µs per call (± half the quartiles' distance)")
        for row in dict.fromkeys(row for row, _ in self.cells):
            found = sorted((self._cell(row, column), column) for at, column in self.cells if at == row)
            target = targets.get(row)
            print(f"  {row:18}{f'target {target}' if target else '':12}", end="")
            print("   ".join(f"{column} {median:.2f} ±{spread:.2f}" for (median, spread), column in found))

    def _cell(self, row: str, column: str) -> tuple[float, float]:
        costs = self.cells[row, column]
        quartiles = statistics.quantiles(costs, n=4) if len(costs) > 1 else [costs[0]] * 3
        return statistics.median(costs), (quartiles[2] - quartiles[0]) / 2


async def measure(columns: dict[str, tuple[Cells, Cells]], calls: int, runs: int) -> tuple[Table, Table]:
    whole, whole_sync = Table(), Table()
    for _ in range(runs):
        floor = statistics.median([await timed(bare, calls) for _ in range(3)])
        floor_sync = statistics.median([timed_sync(bare_sync, calls) for _ in range(3)])
        for column, (cells, cells_sync) in columns.items():
            share = calls if column == "gapless" else calls // 4
            for row, call in cells.items():
                whole.add(row, column, await timed(call, share) - floor)
            for row, call in cells_sync.items():
                whole_sync.add(row, column, timed_sync(call, share) - floor_sync)
    return whole, whole_sync


async def run(wanted: set[str], calls: int, runs: int) -> None:
    columns: dict[str, tuple[Cells, Cells]] = {}
    for column, make in COLUMNS.items():
        if wanted and column not in wanted:
            continue
        try:
            columns[column] = make()
        except ImportError as error:
            print(f"{column}: not installed ({error})")
    whole, whole_sync = await measure(columns, calls, runs)
    whole.show("async", {row: target[0] for row, target in TARGETS.items()})
    whole_sync.show("sync", {row: target[1] for row, target in TARGETS.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--only", default="", help="columns, separated by commas")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"Python {sys.version.split()[0]}, {given.calls} calls, {given.runs} runs")
    asyncio.run(run({each for each in given.only.split(",") if each}, given.calls, given.runs))


if __name__ == "__main__":
    main()
