"""Releases of a service that only other services call, and instances replaced one by one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import System, lost

FRONT = '''\
"""Asks the service behind it; a failure there is a failure here."""
from gapless import Service

async def answer(scope, receive, send):
    user = dict(scope["headers"]).get(b"x-user-id", b"").decode()
    found = await web.get("/", user=user)
    await send({"type": "http.response.start", "status": found.status, "headers": []})
    await send({"type": "http.response.body", "body": found.content})

service = Service("front", app=answer)
web = service.client("web")
'''

CONFIG = """
  front:
    app: front:service
    source: {source}
    instances: 2
    routes: [/]
    needs: [web]
    drain: 5s
"""


@pytest.fixture
def system() -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory)
    front = directory / "front"
    front.mkdir()
    (front / "front.py").write_text(FRONT)
    tail = CONFIG.format(source=front)
    system.file.write_text(system.file.read_text().replace("    routes: [/]\n", "") + tail)
    system.up()
    yield system
    system.down()
    shutil.rmtree(directory)


def test_a_service_without_routes_is_deployed_like_any_other(system: System) -> None:
    with system.load() as requests:
        good = system.deploy("good")
        bad = system.deploy("bad", "errors")
    assert good.returncode == 0, good.stdout + good.stderr
    assert bad.returncode == 15, bad.stdout + bad.stderr
    assert "bad was rolled back" in bad.stderr
    lost_requests = lost(requests)
    assert all(r["cause"] == "5xx" for r in lost_requests), lost_requests
    assert len(lost_requests) < len(requests) / 10  # those of the bad release, which the front passed on
    assert system.status()["services"]["web"]["split"] == {"good": 1.0}


def test_instances_are_replaced_one_by_one() -> None:
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory, strategy="rolling")
    try:
        system.up()
        with system.load() as requests:
            done = system.deploy("rolled")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "50% of users" in done.stdout
        assert lost(requests) == []
        assert {r["release"] for r in requests} >= {"rolled"}
    finally:
        system.down()
        shutil.rmtree(directory)
