"""A real process that writes is killed at random moments: what it had acknowledged is there, and nothing is torn."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from gapless.core.errors import StoreLocked
from gapless.core.ports import Update
from gapless.core.world import RealWorld
from gapless.store.sqlite import SqliteStore

KILLS = 25
WRITERS = 8

WRITER = f"""
import asyncio, json, os, sys
from pathlib import Path
from gapless.core.ports import Delete, Put
from gapless.core.world import RealWorld
from gapless.store.sqlite import SqliteStore

def acknowledge(**told):
    os.write(1, (json.dumps(told) + "\\n").encode())

async def write(store, writer, start):
    number = start
    while True:
        number += 1
        value = json.dumps(number).encode()
        # Both sides and the counter change in one transaction; the marker of the number before goes.
        revision = await store.transact(
            Put(key=f"left/{{writer}}", value=value),
            Put(key=f"right/{{writer}}", value=value),
            Put(key=f"marker/{{writer}}/{{number}}", value=b"x" * (number % 50) * 100, expect=0),
            Delete(key=f"marker/{{writer}}/{{number - 1}}"),
        )
        acknowledge(writer=writer, number=number, revision=revision)

async def main():
    store = SqliteStore(Path(sys.argv[1]), RealWorld())
    await store.open()
    lease = await store.grant(3600)
    acknowledge(lease=lease, revision=await store.put("lease", lease.encode(), lease=lease))
    found = {{entry.key: int(entry.value) for entry in (await store.list("left/")).entries}}
    await asyncio.gather(*(write(store, w, found.get(f"left/{{w}}", 0)) for w in range({WRITERS})))

asyncio.run(main())
"""


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, bufsize=0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def run_and_kill(path: Path, after_s: float) -> list[dict[str, object]]:
    """What a writer acknowledged between its first word and its sudden end, so many seconds later."""
    with writing(path) as process:
        assert process.stdout is not None
        heard, kill_at = b"", time.monotonic() + 60.0
        while time.monotonic() < kill_at:
            if select.select([process.stdout], [], [], 0.001)[0]:
                data = os.read(process.stdout.fileno(), 1 << 16)
                assert data, "the writer ended by itself"
                kill_at = kill_at if heard else time.monotonic() + after_s
                heard += data
        process.send_signal(signal.SIGKILL)
        heard += process.stdout.read()
    return [json.loads(line) for line in heard.split(b"\n")[:-1]]


async def reopened(path: Path) -> SqliteStore:
    store = SqliteStore(path, RealWorld())
    await store.open()
    return store


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    return random.Random(seed)


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, dice: random.Random) -> None:
    path, newest, revision = tmp_path / "store.db", {}, 0
    for _ in range(KILLS):
        for told in run_and_kill(path, dice.uniform(0.0, 0.25)):
            assert int(str(told["revision"])) > revision, "a revision was used twice"
            revision = int(str(told["revision"]))
            if "writer" in told:
                newest[told["writer"]] = told["number"]
        store = await reopened(path)
        await check(store, newest, revision)
        revision = (await store.list("")).revision
        await store.close()
    assert len(newest) == WRITERS
    assert revision > KILLS * WRITERS


async def check(store: SqliteStore, newest: dict[object, object], revision: int) -> None:
    listing = await store.list("")
    assert listing.revision >= revision, "an acknowledged revision is gone"
    found = {entry.key: entry for entry in listing.entries}
    for writer, number in newest.items():
        left, right = found[f"left/{writer}"], found[f"right/{writer}"]
        assert int(left.value) >= int(str(number)), "an acknowledged write is gone"
        assert (left.value, left.revision) == (right.value, right.revision), "a transaction is torn"
        markers = [entry for entry in listing.entries if entry.key.startswith(f"marker/{writer}/")]
        assert [(m.key, m.revision) for m in markers] == [(f"marker/{writer}/{int(left.value)}", left.revision)]
    await check_history(store, listing.revision)


async def check_history(store: SqliteStore, revision: int) -> None:
    """A watch over the recent past finds every revision, whole, and ends where the listing says."""
    after = max(revision - 500, 0)
    watch = store.watch("", after=after)
    groups: list[tuple[Update, ...]] = [await anext(watch) for _ in range(revision - after)]
    assert [group[0].revision for group in groups] == list(range(after + 1, revision + 1))
    for group in groups:
        assert len(group) in (1, 3, 4)
    for before, now in pairwise(await store.history("left/0", limit=20)):
        assert int(before.value or b"-1") == int(now.value or b"-1") + 1


async def test_a_lease_outlives_the_process_that_kept_it(tmp_path: Path) -> None:
    (told, *_) = run_and_kill(tmp_path / "store.db", 0.0)
    store = await reopened(tmp_path / "store.db")
    await store.renew(str(told["lease"]))
    assert await store.get("lease")
    await store.revoke(str(told["lease"]))
    assert await store.get("lease") is None
    await store.close()


async def test_another_process_holds_the_store_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with writing(path) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        store = SqliteStore(path, RealWorld())
        with pytest.raises(StoreLocked, match=f"is held by process {process.pid}"):
            await store.open()
        process.kill()
        process.wait()
        await store.open()
        await store.close()
