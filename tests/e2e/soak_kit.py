"""Loads of five kinds at once, and what may be said about each lost request."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.e2e.kit import LIMIT_S, System, until

KINDS: dict[str, list[str]] = {
    "get": [],
    "post": ["-X", "POST", "--body", "x"],
    "get, fresh connections": ["--fresh"],
    "get, HTTP/2": ["--http2"],
    "post, HTTP/2": ["--http2", "-X", "POST", "--body", "x"],
}
KILLED_S = 2.0
"""How long after its instance was killed a request may end that the instance held."""

Record = dict[str, Any]


@dataclass
class Told:
    """What happened, for the verdict: `kills` moments (seconds since the epoch) at which an instance was killed;
    `bad` releases that deserve their errors; `epochs` the moments between which users may move once."""

    kills: list[float] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    records: dict[str, list[Record]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(map(len, self.records.values()))

    def lost(self) -> list[str]:
        """Those that a healthy release could have answered, and nobody's death explains, for people."""
        return [
            f"{record['due_at']:.2f}+{record['latency_s']:.2f}: {kind}: {record['cause']}: {record['detail']} "
            f"({record['release'] or 'nobody'}, {'old' if record['reused'] else 'new'} connection)"
            for kind, records in self.records.items()
            for record in records
            if record["cause"] and not self._explained(kind, record)
        ]

    def held(self) -> int:
        """Those that only a killed instance held."""
        return sum(
            bool(r["cause"]) and r["release"] not in self.bad and self._explained(kind, r)
            for kind, records in self.records.items()
            for r in records
        )

    def _explained(self, kind: str, record: Record) -> bool:
        if record["release"] in self.bad:
            return True
        ended_at = record["due_at"] + record["latency_s"]
        near = any(record["due_at"] <= at + KILLED_S and ended_at >= at for at in self.kills)
        return near and kind.startswith("post")  # a GET is asked again elsewhere

    def restless(self, moves: dict[str, int]) -> list[str]:
        """Users who changed release more often than the rollouts can explain: `moves[release]` is how many times one
        user may come to it."""
        found = []
        for user, seen in _by_user(self.records).items():
            came: dict[str, int] = defaultdict(int)
            for before, after in pairwise(seen):
                if after != before:
                    came[after] += 1
            found += [f"user {user}: {n} times to {to}" for to, n in came.items() if n > moves.get(to, 1)]
        return found


def _by_user(records: dict[str, list[Record]]) -> dict[str, list[str]]:
    """The releases that answered each user, in the order in which its requests came to be sent. Two that overlap may
    be answered in another order than they began, so only those are looked at that began when none was under way."""
    of: dict[str, list[Record]] = defaultdict(list)
    for each in records.values():
        for record in each:
            if record["release"]:
                of[record["user"]].append(record)
    found: dict[str, list[str]] = {}
    for user, mine in of.items():
        mine.sort(key=lambda record: record["due_at"])
        busy_until, seen = 0.0, []
        for record in mine:
            if record["due_at"] >= busy_until:
                seen.append(record["release"])
            busy_until = max(busy_until, record["due_at"] + record["latency_s"])
        found[user] = seen
    return found


@contextmanager
def loads(system: System, rate: float) -> Iterator[Told]:
    """All kinds, each at a fifth of the rate, until the block ends; the records are there afterwards."""
    told, running = Told(), []
    for number, (kind, options) in enumerate(KINDS.items()):
        log = system.directory / f"load-{number}.jsonl"
        log.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "gapless", "load", system.url, "--rate", f"{rate / len(KINDS):g}"]
        argv += [
            "--connections",
            "4",
            "--for",
            "9000s",
            "--users",
            "300",
            "--timeout",
            "30s",
            "--log",
            str(log),
            *options,
        ]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append((kind, process, log))
    try:
        for _, _, log in running:
            until(lambda log=log: log.exists() and log.stat().st_size, "the load's first answer", system.output)
        yield told
    finally:
        for _, process, _ in running:
            process.send_signal(signal.SIGINT)
        for kind, process, log in running:
            process.wait(LIMIT_S)
            told.records[kind] = [json.loads(line) for line in log.read_text().splitlines()]
