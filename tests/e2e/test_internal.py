"""Releases of a service that only other services call, and instances replaced one by one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.e2e.kit import LIMIT_S, System, lost, until

pytestmark = pytest.mark.promise

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


def test_a_request_is_traced_through_all_services(system: System) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    asked = Request(system.url, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert urlopen(asked, timeout=LIMIT_S).status == 200

    def spans() -> list[dict[str, Any]]:
        done = system.run("traces", trace, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else []

    until(lambda: len(spans()) == 4, "spans of the gateway and both services", system.output)
    entered, served, call, called = spans()
    assert (served["service"], call["name"], called["service"]) == ("front", "GET web", "web")
    assert (entered["service"], entered["parent_id"]) == ("gateway", "00f067aa0ba902b7")
    assert (served["parent_id"], call["parent_id"]) == (entered["span_id"], served["span_id"])
    assert called["parent_id"] == call["span_id"]
    assert "web GET" in system.run("traces", trace).stdout
    assert any(one["trace_id"] == trace for one in system.json("traces", "web"))
