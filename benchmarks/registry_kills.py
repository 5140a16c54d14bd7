"""The registry killed again and again under load: `gapless registry` as a process, its clients in another one.

    python benchmarks/registry_kills.py [--kills 100] [--instances 1000] [--seed 1] [--dir .] [--spoil]

Clients register and deregister instances and nodes, pass and fail checks, put, check-and-set and delete keys, one or
several at once, take and release locks, end sessions, pass times to live, and hold blocking queries, until a SIGKILL at
a random moment. Now and then the next process is killed as well, while it starts, or stays away for longer than a time
to live. Once it is back, all that was acknowledged must be there (or what was under way), no index may be lower than
one seen before or stand for another content, and nobody may be critical because the registry was away.

Prints figures; exits 1 with the evidence when a promise was broken. `--spoil` damages the store before the last
restart, by taking away what was written since the kill before: this must be noticed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from registry import SPAWN, command, registration, registry
from registry_client import drive
from registry_crowd import BEAT_TTL_S, Found, crowd

WORK_S = 0.6
"""Between the first request of a life and its kill, at most."""
START_S = 0.6
"""A process that is killed while it starts lives so long, at most."""
COMPARE_S = 120.0


class Run:
    """One registry, over all its lives. `ready_s`: from each start to the first answer; `computed_s`: what of it the
    registry computed, whatever else the machine did."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._store = folder / "registry.db"
        self._copy = folder / "copy"
        self._rng = rng
        self.server = registry(self._store)
        self.ready_s: list[float] = []
        self.computed_s: list[float] = []
        self.killed_at_start = 0

    def fill(self, instances: int) -> None:
        drive(self.server.port, [registration(number) for number in range(instances)], 32)

    def kill(self) -> None:
        """At a random moment."""
        time.sleep(self._rng.uniform(0.0, WORK_S))
        self.server.end(signal.SIGKILL)

    def restart(self) -> float:
        """For how long clients shall be silent then: the time to live has its grace."""
        fate = self._rng.random()
        if fate < 0.1:
            time.sleep(2 * BEAT_TTL_S)
        elif fate < 0.2:
            self._start_and_kill()
        self.server = registry(self._store, self.server.port)
        self.computed_s.append(self.server.computed_s())
        self.ready_s.append(self.server.ready_s)
        return 2 * BEAT_TTL_S if fate < 0.1 else 0.0

    def _start_and_kill(self) -> None:
        process = subprocess.Popen(command(self._store, self.server.port), stdout=subprocess.DEVNULL)
        time.sleep(self._rng.uniform(0.0, START_S))
        process.kill()
        process.wait()
        self.killed_at_start += 1

    def save(self) -> None:
        """While nothing runs."""
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir()
        for file in self._files():
            shutil.copy(file, self._copy)

    def spoil(self) -> None:
        """Everything as it was saved."""
        for file in self._files():
            file.unlink()
        for file in self._copy.iterdir():
            shutil.copy(file, self._store.parent)

    def _files(self) -> list[Path]:
        return list(self._store.parent.glob("registry.db*"))


def compared(child: Any, pipe: Connection, silence_s: float = 0.0) -> Found:
    """What the clients have found so far, and now that the registry is back."""
    pipe.send(silence_s)
    if not pipe.poll(COMPARE_S):
        raise SystemExit(f"the clients have not looked at everything within {COMPARE_S:g} s")
    try:
        return pipe.recv()  # type: ignore[no-any-return]
    except EOFError:
        child.join()
        raise SystemExit(f"the clients have ended with status {child.exitcode}") from None


def lives(run: Run, child: Any, pipe: Connection, kills: int, *, spoil: bool) -> Found:
    found = compared(child, pipe)
    for number in range(1, kills + 1):
        run.kill()
        if spoil and number == kills - 1:
            run.save()
        if spoil and number == kills:
            run.spoil()
        found = compared(child, pipe, run.restart())
        if found.breaches:
            print(f"after kill {number}:", flush=True)
            break
    return found


def tell(run: Run, found: Found, instances: int) -> None:
    ready = run.ready_s
    print(
        f"{len(ready)} kills under load with {instances:,} instances, {run.killed_at_start} more while starting: "
        f"{found.asked:,} requests\n"
        f"found as acknowledged    {found.compared:,} times, {found.in_doubt:,} of them a write that was under way\n"
        f"indexes                  {found.indexes:,} compared\n"
        f"times to live            {found.outlived} times nothing was heard for longer than {BEAT_TTL_S:g} s\n"
        f"first answer after       min {min(ready):.2f}, median {statistics.median(ready):.2f}, max {max(ready):.2f} s "
        f"(target 1 with 10,000 instances); computes {statistics.median(run.computed_s):.2f} s\n"
        f"broken promises          {len(found.breaches) + found.more}"
    )
    for breach in found.breaches:
        print(f"  {breach}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--instances", type=int, default=1000, help="that stand there before")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(), help="the disk that is written to")
    parser.add_argument("--spoil", action="store_true", help="lose what the last life wrote, to see that it is noticed")
    given = parser.parse_args()
    ours, theirs = SPAWN.Pipe()
    with tempfile.TemporaryDirectory(dir=given.dir, prefix="bench-") as folder:
        run = Run(Path(folder), random.Random(given.seed))
        arguments = (run.server.port, given.seed, given.instances, theirs)
        child = SPAWN.Process(target=crowd, args=arguments, daemon=True)
        try:
            run.fill(given.instances)
            child.start()
            theirs.close()
            found = lives(run, child, ours, given.kills, spoil=given.spoil)
        finally:
            run.server.end(signal.SIGKILL)
            if child.is_alive():
                child.terminate()
                child.join()
    tell(run, found, given.instances)
    sys.exit(1 if found.breaches else 0)


if __name__ == "__main__":
    main()
