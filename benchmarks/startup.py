"""How long it takes to start: each against its limit and against an interpreter that does nothing more.

    python benchmarks/startup.py [rounds]

The limits hold in the quiet case, so the fastest round counts; the median shows how quiet it was.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15

CASES = {
    "import asyncio": ["-c", "import asyncio"],
    "import asyncio, gapless": ["-c", "import asyncio, gapless"],
    "gapless --help": ["-m", "gapless", "--help"],
}


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    taken = {name: [] for name in CASES}
    for _ in range(rounds):  # interleaved, so that a busy moment hits all of them
        for name, argv in CASES.items():
            taken[name].append(milliseconds(argv))
    for name, times in taken.items():
        print(f"{name:<26} fastest {min(times):6.1f} ms   median {statistics.median(times):6.1f} ms")
    fastest = {name: min(times) for name, times in taken.items()}
    ok = [
        judge("import gapless beyond asyncio", fastest["import asyncio, gapless"] - fastest["import asyncio"], 60),
        judge("gapless --help", fastest["gapless --help"], 250),
    ]
    return 0 if all(ok) else 1


def milliseconds(argv: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def judge(what: str, value: float, limit: float) -> bool:
    print(f"{'ok  ' if value <= limit else 'LATE'} {what}: {value:.1f} ms of {limit} ms ({value / limit:.2f})")
    return value <= limit


if __name__ == "__main__":
    sys.exit(main())
