"""Middleware: who is let in (`guard` decides)."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gapless.console import guard
from gapless.console.guard import Access
from gapless.core.ports import World

STREAM = "/stream"
"""What the addresses of streams begin with; the page's follows."""


def problem(status: int, what: str, remedy: str) -> Response:
    """What went wrong and what to do, as JSON."""
    return JSONResponse({"error": what, "remedy": remedy}, status_code=status)


class Gate:
    """Answers only under our names, only acts of our own pages, and, with a token, only who is logged in."""

    def __init__(self, app: ASGIApp, access: Access, world: World) -> None:
        self._app, self._access, self._world = app, access, world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not guard.host_allowed(host, self._access):
            remedy = "Open it by its address, or name it in gapless.yaml: `console: {hosts: [NAME]}`."
            return problem(421, f"the console is not called {host!r}", remedy)
        if request.method not in ("GET", "HEAD") and not guard.origin_allowed(request.headers.get("origin", ""), host):
            return problem(403, "this was not asked by a page of the console", "Act from its own pages.")
        return self._door(request)

    def _door(self, request: Request) -> Response | None:
        path = request.url.path
        if not self._access.token or path == "/login" or path.startswith("/assets/"):
            return None
        if guard.who_is(request.cookies.get(self._access.cookie, ""), self._access, self._world.time()) is not None:
            return None
        if request.method == "GET" and not path.startswith(STREAM):
            return RedirectResponse(f"/login?to={quote(path)}", status_code=303)
        return problem(401, "you are not logged in any more", "Reload the page and log in.")
