"""A real process that registers, updates and deregisters is killed at random moments: what it had acknowledged is there
when the store is opened again, and no index has gone back."""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gapless.core.world import RealWorld
from gapless.discovery.catalog.catalog import Catalog
from gapless.store.sqlite import SqliteStore

KILLS = 8
WRITERS = 4

WRITER = f"""
import asyncio, json, os, sys
from pathlib import Path
from gapless.core.world import RealWorld
from gapless.discovery.catalog import topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Check, Definition, Instance
from gapless.store.sqlite import SqliteStore

TOPICS = (topic.SERVICES, topic.CHECKS, topic.state("passing"), topic.checks_on("here"), topic.node("here"))

def acknowledge(catalog, writer, **told):
    service = f"s{{writer}}"
    topics = (*TOPICS, topic.health(service), topic.instances(service), topic.checks_of(service))
    indexes = {{json.dumps(of): catalog.index(of) for of in topics}}
    os.write(1, (json.dumps({{**told, "writer": writer, "indexes": indexes}}) + "\\n").encode())

async def live(catalog, writer, number):
    check = Check(node="", id="", definition=Definition(ttl="60s"))
    while True:
        number += 1
        name = f"{{writer}}-{{number}}"
        await catalog.register(Instance(service=f"s{{writer}}", id=name, port=number % 60000), [check])
        acknowledge(catalog, writer, number=number, state="critical")
        await catalog.update_check(f"service:{{name}}", "passing", "")
        acknowledge(catalog, writer, number=number, state="passing")
        if number % 3 == 0:
            await catalog.deregister(name)
            acknowledge(catalog, writer, number=number, state="gone")

async def main():
    world = RealWorld()
    store = SqliteStore(Path(sys.argv[1]), world)
    await store.open()
    catalog = Catalog(store, world, name="here")
    await catalog.start()
    start = int(sys.argv[2])
    await asyncio.gather(*(live(catalog, writer, start) for writer in range({WRITERS})))

asyncio.run(main())
"""


def run_and_kill(path: Path, start: int, after_s: float) -> list[dict[str, Any]]:
    """What the process acknowledged before it was killed, so long after its first word."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(start)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], 60.0)[0], "it said nothing"
        time.sleep(after_s)
    finally:
        process.kill()
        heard = process.stdout.read()
        process.wait()
        process.stdout.close()
    return [json.loads(line) for line in heard.split(b"\n")[:-1]]


async def test_nothing_acknowledged_is_lost_and_no_index_goes_back(tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "store.db"
    states: dict[str, str] = {}
    indexes: dict[str, int] = {}
    for life in range(KILLS):
        for told in run_and_kill(path, life * 100_000, rng.uniform(0.0, 0.3)):
            states[f"{told['writer']}-{told['number']}"] = told["state"]
            for of, index in told["indexes"].items():
                assert index >= indexes.get(of, 0), f"{of} went back from {indexes[of]} to {index}"
                indexes[of] = index
        await look(path, states, indexes)
    assert len(states) > KILLS * WRITERS


async def look(path: Path, states: dict[str, str], indexes: dict[str, int]) -> None:
    """Open the store and compare. The one write of each writer that was under way may have happened."""
    store = SqliteStore(path, RealWorld())
    await store.open()
    catalog = Catalog(store, RealWorld(), name="here")
    await catalog.start()
    order = {"critical": 0, "passing": 1, "gone": 2}
    for name, state in states.items():
        check = catalog.check(f"service:{name}")
        found = check.check.status if check else "gone"
        assert (catalog.instance(name) is None) == (found == "gone")
        assert order[found] in (order[state], order[state] + 1), f"{name} is {found}, and was {state}"
        states[name] = found
    for of, index in indexes.items():
        assert catalog.index(tuple(json.loads(of))) >= index, of
    await catalog.aclose()
    await store.close()
