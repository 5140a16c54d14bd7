"""`gapless route` and what it asks the control plane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from gapless.api.rest import rest_app
from gapless.cli import route
from gapless.cli.route import _headers, _last_known, _place, told
from gapless.core import codec
from gapless.core.errors import ConfigError
from gapless.gateway.explain import explain
from gapless.gateway.match import Request
from tests.unit.control_kit import Rig

FILE = """system: shop
services:
  web:
    command: [./web, "{port}"]
    timeout: 3s
    routes: [{path: /x, methods: [GET, HEAD]}]
"""


async def asked(app: Starlette, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request to an ASGI app."""
    sent: list[dict[str, Any]] = []
    content = json.dumps(body).encode() if body is not None else b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "http_version": "1.1"}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent[1:]))


async def test_the_control_plane_tells_what_the_gateway_obeys() -> None:
    rig = Rig()
    app = rest_app(await rig.up(), lambda: None)
    await rig.settle()
    release = rig.releases()[0]
    status, found = await asked(app, "GET", "/v1/routes")
    assert (status, [each["route"] for each in found["routes"]]) == (200, ["*/"])
    status, found = await asked(app, "POST", "/v1/routes/explain", {"path": "/x", "headers": {"x-user-id": "7"}})
    assert (status, found["service"], found["release"], found["refusal"]) == (200, "web", release, "")
    status, found = await asked(app, "POST", "/v1/routes/explain", {"path": 7})
    assert (status, "this is no request" in found["error"]) == (422, True)
    await rig.down()


async def test_apply_is_asked_for_by_http(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    plane = await rig.up()
    app = rest_app(plane, lambda: None)
    await rig.settle()
    monkeypatch.setattr("gapless.control.plane.load", lambda path: plane.system)
    status, found = await asked(app, "POST", "/v1/apply", {"dry_run": True})
    assert (status, found) == (200, {"applied": False, "changes": []})
    monkeypatch.undo()
    status, found = await asked(app, "POST", "/v1/apply", {"file": "/nowhere/gapless.yaml"})
    assert (status, found["code"]) == (422, 2)
    assert "there is no such file" in found["error"]
    await rig.down()


@pytest.mark.parametrize(
    ("given", "host", "found"),
    [
        ("/orders?x=1", "", ("/orders?x=1", "localhost")),
        ("/a/./b/../c", "", ("/a/c", "localhost")),
        ("http://shop.example:81/o", "", ("/o", "shop.example:81")),
        ("http://shop.example", "other", ("/", "other")),
    ],
)
def test_a_path_or_a_url_is_asked_for(given: str, host: str, found: tuple[str, str]) -> None:
    assert _place(given, host) == found


def test_headers_and_cookies_are_put_together() -> None:
    found = _headers("42", ["X-Tenant: gold", "cookie: a=b"], ["c=d"])
    assert found == {"x-tenant": "gold", "cookie": "a=b; c=d", "x-user-id": "42"}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: _headers("", ["gold"], []), "is not NAME: VALUE"),
        (lambda: _headers("", ["a: 1", "A: 2"], []), "given twice"),
        (lambda: _headers("", [], ["gold"]), "is not NAME=VALUE"),
        (lambda: _place("orders", ""), "is no path"),
        (lambda: route._address("home"), "not an address"),
    ],
)
def test_what_cannot_be_asked_is_refused(call: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        call()


async def test_without_a_control_plane_the_last_table_tells(tmp_path: Path) -> None:
    rig = Rig()
    plane = await rig.up()
    await rig.settle()
    (tmp_path / "discovery.json").write_bytes(codec.encode(plane.table))
    table, source = _last_known(tmp_path / "gapless.yaml", tmp_path)
    assert table == plane.table
    assert "what the gateway was told last" in source
    await rig.down()


def test_or_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "gapless.yaml").write_text(FILE)
    table, source = _last_known(tmp_path / "gapless.yaml", tmp_path)
    assert "knows no releases" in source
    found = explain(table, Request(path="/x/1"))
    assert (found["service"], found["timeout_s"]) == ("web", 3.0)
    lines = told(found)
    assert lines[0] == "  * web  GET|HEAD */x"
    assert lines[-1].startswith("web (any): ")
    assert told(explain(table, Request(path="/x", method="POST"))) == [
        "  - web  GET|HEAD */x: the method is POST",
        "nobody: no route matches: 404",
    ]
