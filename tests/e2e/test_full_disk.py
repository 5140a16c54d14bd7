"""The disk with the state directory fills up while all runs: requests are answered, changes refused, alerts still fire
and are told, each want is said once with its remedy, and once there is room it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import System, until
from tests.integration.notify_kit import Receiver, receiving
from tests.integration.test_store_full import fill

pytestmark = [pytest.mark.promise, pytest.mark.timeout(300)]

WATCHED = """\
tracing: {sample: 100%}
alerts:
  rules:
    disk: {each_service: false, metric: gapless_disk_free_bytes, per: gapless_disk_bytes, below: 30%, calm: 5s}
notify:
  channels: {ops: {webhook: "URL"}}
  routes: [{to: [ops], what: [alerts]}]
"""
TALKING = """\
    print("a line that goes to the log", flush=True)
    import logging
    logging.getLogger("web").warning("another one")
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def system(receiver: Receiver) -> Iterator[System]:
    """Not started; its state directory is a file system of its own."""
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory)
    system.file.write_text(system.file.read_text() + WATCHED.replace("URL", f"{receiver.url}/"))
    web = directory / "v1" / "web.py"
    web.write_text(web.read_text().replace('    bad = FAULT == "errors"', f'{TALKING}    bad = FAULT == "errors"'))
    system.state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", system.state], capture_output=True)
    if mounted.returncode:
        pytest.fail("a full disk needs a small one: mounting a tmpfs is not permitted here, run this test as root")
    try:
        yield system
    finally:
        system.down()
        subprocess.run(["umount", system.state], check=True)
        shutil.rmtree(directory)


def firing(system: System) -> list[str]:
    return [alert["rule"] for alert in system.json("alerts") if alert["state"] == "firing"]


def told(receiver: Receiver) -> list[tuple[str, str]]:
    return [(one.json["state"], one.json["labels"]["rule"]) for one in receiver.heard]


def warnings(system: System) -> Counter[str]:
    """What the control plane said on the terminal, without its time."""
    lines = [line.split(" ", 1)[-1] for line in system.output.read_text().splitlines()]
    return Counter(line for line in lines if "space" in line or "cannot" in line)


def test_all_goes_on_and_is_said_once(system: System, receiver: Receiver) -> None:
    system.up()
    fill(system.state / "filler")
    done = system.deploy("full")
    assert done.returncode in (1, 10), done.stderr
    assert "full" in done.stderr or "space" in done.stderr.lower()
    assert "→" in done.stderr
    with system.load() as requests:
        until(lambda: firing(system) == ["disk"], "the alert", system.output)
        until(lambda: told(receiver), "the notice", system.output)
        time.sleep(3)  # for loops that would say or tell the same again each second
    assert requests
    assert [r for r in requests if r["cause"]] == []
    assert told(receiver) == [("firing", "disk")]
    said = warnings(system)
    assert said, system.output.read_text()
    assert max(said.values()) == 1, said

    (system.state / "filler").unlink()
    with system.load():
        assert system.deploy("roomy").returncode == 0
    until(lambda: firing(system) == [], "the end of the alert", system.output)
    until(lambda: spans(system), "the traces", system.output)
    system.kill_control()
    system.up()
    assert [(one["rule"], one["state"]) for one in system.json("alerts", "--history")] == [("disk", "resolved")]
    until(lambda: len(told(receiver)) == 2, "the end of it, told", system.output)
    assert told(receiver) == [("firing", "disk"), ("resolved", "disk")]


def spans(system: System) -> list[Any]:
    """Of the file with the traces: whole lines, each of them."""
    return [json.loads(line) for line in (system.state / "traces" / "spans.jsonl").read_text().splitlines()]
