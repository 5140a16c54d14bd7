"""`protect:` in a whole system: one line in gapless.yaml, obeyed by gateway and instances."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.kit import System, until


@pytest.fixture
def system() -> Iterator[System]:
    found = System(Path(tempfile.mkdtemp(prefix="g-")))
    yield found
    found.down()
    shutil.rmtree(found.directory)


def protect(system: System, rules: str) -> None:
    kept = [line for line in system.file.read_text().splitlines() if "protect:" not in line]
    system.file.write_text("\n".join([*kept, f"    protect: {rules}"]) + "\n")


def ask(url: str, user: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, headers={"x-user-id": user})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def statuses(url: str, user: str, times: int) -> Counter[int]:
    return Counter(ask(url, user)[0] for _ in range(times))


def address_of_one(system: System) -> str:
    """Of any instance: past the gateway."""
    return f"http://{system.status()['services']['web']['instances'][0]['address']}/"


def test_gateway_and_running_instances_obey_and_a_change_is_obeyed_at_once(system: System) -> None:
    protect(system, "{rate: {limit: 4/h, by: user}, breaker: 50%, deadline: 5s}")
    system.up()
    assert statuses(system.url, "ada", 6) == {200: 4, 429: 2}
    status, headers, body = ask(system.url, "ada")
    assert (status, headers["content-type"], json.loads(body)["policy"]) == (429, "application/problem+json", "rate")
    assert headers["retry-after"] == "900"
    direct, running = address_of_one(system), [i["id"] for i in system.status()["services"]["web"]["instances"]]
    assert statuses(direct, "eve", 6) == {200: 4, 429: 2}

    system.kill_control()
    protect(system, "{rate: {limit: 2/h, by: user}, breaker: {rate: 90%}}")
    system.up()
    assert statuses(system.url, "bob", 6) == {200: 2, 429: 4}
    assert [each["id"] for each in system.status()["services"]["web"]["instances"]] == running
    fresh = map(str, count())
    until(lambda: statuses(direct, next(fresh), 3) == {200: 2, 429: 1}, "the new rate in the instance", system.output)
    assert statuses(direct, "eve", 1) == {429: 1}, "what was used before the change stays used"
    assert system.file.write_text(system.file.read_text().replace("rate: 90%", "rate: 90"))
    refused = system.run("up")
    assert refused.returncode
    assert "write it with the sign" in refused.stderr
    assert statuses(direct, "lea", 3) == {200: 2, 429: 1}
