"""What a profile costs while it is taken: the time of the same work without it, with ours, and with what others use.

python benchmarks/profiles.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import cProfile
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gapless.server.profile.cpu import Sampler

THREADS = 20
"""Idle ones beside, as thread pools have them: each costs a look at its clock."""


def step(n: int) -> int:
    return n * n % 7


def work() -> float:
    """Seconds for a fixed amount of small calls."""
    began = time.perf_counter()
    sum(step(n) for n in range(2_000_000))
    return time.perf_counter() - began


@contextmanager
def ours() -> Iterator[None]:
    sampler = Sampler()
    sampler.start()
    yield
    sampler.stop()


@contextmanager
def deterministic() -> Iterator[None]:
    with cProfile.Profile():
        yield


@contextmanager
def nothing() -> Iterator[None]:
    yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    done = threading.Event()
    for _ in range(THREADS):
        threading.Thread(target=done.wait, daemon=True).start()
    ways: dict[str, Callable[[], object]] = {"gapless": ours, "cProfile": deterministic}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            bare = work()
            with way():  # type: ignore[attr-defined]
                with_it = work()
            ratios[name].append(with_it / bare)
    for name, found in ratios.items():
        low, middle, high = (sorted(found)[i] for i in (len(found) // 4, len(found) // 2, 3 * len(found) // 4))
        print(
            f"{name:10} {middle:.3f} x  (half of the rounds {low:.3f} to {high:.3f}; mean {statistics.mean(found):.3f})"
        )
    done.set()


if __name__ == "__main__":
    main()
