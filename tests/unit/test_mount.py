"""`--root-path`: what an app below a path of its site sees."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.core.errors import ConfigError
from gapless.service.kit import Service
from gapless.service.mount import mounted, root_path_of
from gapless.service.wsgi import from_wsgi

SCOPE = {
    "type": "http",
    "method": "GET",
    "http_version": "1.1",
    "path": "/a b",
    "raw_path": b"/a%20b",
    "root_path": "",
    "query_string": b"",
    "scheme": "http",
    "headers": [],
    "server": ("127.0.0.1", 80),
    "client": ("127.0.0.1", 5),
}


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    assert message["type"].startswith("http.response")


@pytest.mark.parametrize(("given", "path"), [("", ""), ("/", ""), ("/shop", "/shop"), ("/a/b/", "/a/b")])
def test_the_path_as_asgi_writes_it(given: str, path: str) -> None:
    assert root_path_of(given) == path


@pytest.mark.parametrize("wrong", ["shop", "/a?b", "//a", "/a%20b", "/a#b"])
def test_what_is_no_path_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="--root-path"):
        root_path_of(wrong)


async def test_paths_are_whole_and_the_scope_of_the_caller_stays_as_it_was() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    below = mounted(app, "/shop")
    for kind in ("http", "websocket", "lifespan"):
        await below({**SCOPE, "type": kind}, receive, send)
    assert [(scope["root_path"], scope["path"], scope["raw_path"]) for scope in seen] == [
        ("/shop", "/shop/a b", b"/shop/a%20b"),
        ("/shop", "/shop/a b", b"/shop/a%20b"),
        ("", "/a b", b"/a%20b"),
    ]
    assert SCOPE["path"] == "/a b"
    assert mounted(app, "") is app


async def test_wsgi_has_both_parts_of_it() -> None:
    seen: list[tuple[str, str]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append((environ["SCRIPT_NAME"], environ["PATH_INFO"]))
        start_response("200 OK", [])
        return [b""]

    await mounted(from_wsgi(app, threads=1), "/shop")(dict(SCOPE), receive, send)
    assert seen == [("/shop", "/a b")]


async def test_probes_are_asked_without_it() -> None:
    statuses: list[int] = []

    async def note(message: Any) -> None:
        statuses.append(message.get("status", 0))

    service = Service("orders", not_there)
    service.root_path = "/shop"
    for path in ("/livez", "/elsewhere"):
        await service.app({**SCOPE, "path": path}, receive, note)
    assert [status for status in statuses if status] == [200, 404]


async def not_there(scope: Any, receive: Any, send: Any) -> None:
    assert scope["path"] == "/shop/elsewhere"
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})
