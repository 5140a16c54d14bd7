"""`protect:` in a whole system: one line in gapless.yaml, obeyed by gateway and instances."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import System


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


def statuses(url: str, user: str, count: int) -> Counter[int]:
    return Counter(ask(url, user)[0] for _ in range(count))


def address_of_one(system: System) -> str:
    """Of any instance: past the gateway."""
    return f"http://{system.status()['services']['web']['instances'][0]['address']}/"


def test_gateway_and_instances_obey_and_a_change_is_obeyed_by_the_gateway_at_once(system: System) -> None:
    protect(system, "{rate: {limit: 4/h, by: user}, breaker: 50%, deadline: 5s}")
    system.up()
    assert statuses(system.url, "ada", 6) == {200: 4, 429: 2}
    status, headers, body = ask(system.url, "ada")
    assert (status, headers["content-type"], json.loads(body)["policy"]) == (429, "application/problem+json", "rate")
    assert headers["retry-after"] == "900"
    direct = statuses(address_of_one(system), "eve", 6)
    assert direct == {200: 4, 429: 2}

    system.kill_control()
    protect(system, "{rate: {limit: 2/h, by: user}, breaker: {rate: 90%}}")
    system.up()
    assert statuses(system.url, "bob", 6) == {200: 2, 429: 4}
