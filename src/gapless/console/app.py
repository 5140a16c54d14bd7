"""The console as an ASGI app: pages, their streams, the acts and the log-in. Handlers are thin; pages are views."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gapless.console import acts, assets, guard
from gapless.console.gate import STREAM, Gate, problem
from gapless.console.gateways import Gateways
from gapless.console.guard import Access
from gapless.console.headers import Headers
from gapless.console.hub import Hub
from gapless.console.lately import Lately
from gapless.console.pages import Page, Templates
from gapless.console.recorded import Recorded
from gapless.console.shell import shell
from gapless.console.sight import Sight
from gapless.console.site import NOT_FOUND, PAGES
from gapless.console.stream import Stream
from gapless.control.plane import ControlPlane
from gapless.core.errors import Busy, Conflict, GaplessError, NotLeader, UnknownName
from gapless.core.ports import World

STATUS_OF: dict[type[GaplessError], int] = {UnknownName: 404, Busy: 409, Conflict: 409, NotLeader: 409}
BODY_LIMIT = 16_384
LOGIN_PAUSE_S = 1.0
"""After a wrong token, for everybody who logs in: nobody tries many."""

_Look = tuple[Page, tuple[tuple[str, str], ...]]


class ConsoleApp:
    """`asgi` is the app."""

    def __init__(self, plane: ControlPlane, access: Access, world: World) -> None:
        self._plane, self._access, self._world = plane, access, world
        self._lately, self._recorded = Lately(plane.gateway), Recorded(plane.watching.signals)
        self._gateways = Gateways(plane.gateway)
        self._templates = Templates(assets.address)
        self._hub: Hub[_Look] = Hub(self._regions, lambda: plane.bell, world.sleep)
        self._door = asyncio.Lock()

    def asgi(self) -> Starlette:
        routes = [Route(page.path, self._page(page)) for page in PAGES]
        routes += [Route(STREAM + page.path.rstrip("/"), self._stream(page)) for page in PAGES]
        routes += [
            Route("/incidents/{number:int}/post-mortem.md", self._post_mortem),
            Route("/acts/{verb}", self._act, methods=["POST"]),
            Route("/assets/{version}/{name}", assets.serve),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(Headers), Middleware(Gate, access=self._access, world=self._world)],
            exception_handlers={GaplessError: self._refuse, 404: self._missing},
        )

    # Pages.

    def _page(self, page: Page) -> Any:
        async def answer(request: Request) -> Response:
            values = await self._values(page, _params(request)) | self._frame(request)
            query = f"?{request.url.query}" if request.url.query else ""
            values["stream"] = STREAM + request.url.path.rstrip("/") + query
            return HTMLResponse(self._templates.whole(f"{page.name}.html", values))

        return answer

    def _frame(self, request: Request) -> dict[str, Any]:
        """What a whole page has around its regions."""
        theme = request.cookies.get("theme", "")
        return {
            "act_token": guard.act_token(self._access, request.cookies.get(self._access.cookie, "")),
            "theme": theme if theme in ("light", "dark") else "",
            "log_in": bool(self._access.token),
            "stream": "",
        }

    def _sight(self) -> Sight:
        return Sight(
            plane=self._plane,
            lately=self._lately,
            recorded=self._recorded,
            gateways=self._gateways,
            at=self._world.time(),
        )

    async def _values(self, page: Page, params: Mapping[str, str]) -> dict[str, Any]:
        sight = self._sight()
        view = await page.view(sight, params)
        return {"page": page, "view": view, "shell": shell(sight), "at": sight.at, "params": params}

    async def _regions(self, look: _Look) -> dict[str, str]:
        page, params = look
        return self._templates.regions(f"{page.name}.html", await self._values(page, dict(params)))

    # Streams.

    def _stream(self, page: Page) -> Any:
        async def answer(request: Request) -> ASGIApp:
            if self._hub.full:
                return problem(503, "too many streams are open", "Close some tabs.")
            params = _params(request)
            await page.view(self._sight(), params)  # refuses what is not there
            cookie = request.cookies.get(self._access.cookie, "")
            hello = {"act_token": guard.act_token(self._access, cookie), "version": assets.version()}
            return Stream(hello, self._patches((page, tuple(sorted(params.items())))))

        return answer

    async def _patches(self, look: _Look) -> AsyncIterator[Mapping[str, Any]]:
        async with aclosing(self._hub.follow(look)) as changes:  # type: ignore[type-var]
            async for regions in changes:
                yield {"at": self._world.time(), "regions": regions}

    async def _post_mortem(self, request: Request) -> Response:
        """The draft of a post-mortem, for download."""
        number = request.path_params["number"]
        headers = {"content-disposition": f'attachment; filename="post-mortem-{number}.md"'}
        return Response(self._plane.watching.incidents.export(number), headers=headers, media_type="text/markdown")

    # Acts.

    async def _act(self, request: Request) -> Response:
        cookie = request.cookies.get(self._access.cookie, "")
        if not guard.act_allowed(request.headers.get("x-gapless-act", ""), self._access, cookie):
            return problem(403, "this page is older than the control plane", "Reload it, and try again.")
        body = await _json(request)
        done = await acts.act(self._plane, request.path_params["verb"], body, self._who(cookie))
        return JSONResponse({"done": done})

    def _who(self, cookie: str) -> str:
        return guard.who_is(cookie, self._access, self._world.time()) or self._access.who

    # The log-in.

    async def _login(self, request: Request) -> Response:
        goal = request.query_params.get("to", "/")
        goal = goal if goal.startswith("/") and not goal.startswith(("//", "/\\")) else "/"
        if request.method == "GET":
            return self._login_page(goal, wrong=False)
        form = parse_qs((await _body(request)).decode(errors="replace"))
        async with self._door:
            if not guard.token_matches(form.get("token", [""])[0], self._access):
                await self._world.sleep(LOGIN_PAUSE_S)
                return self._login_page(goal, wrong=True)
        value = guard.session(self._access, form.get("name", [""])[0], self._world.time())
        answer = RedirectResponse(goal, status_code=303)
        secure = request.headers.get("origin", "").startswith("https://")
        answer.set_cookie(
            self._access.cookie, value, max_age=int(guard.SESSION_S), httponly=True, samesite="strict", secure=secure
        )
        return answer

    def _login_page(self, goal: str, *, wrong: bool) -> Response:
        values = {"system": self._plane.system.name, "goal": quote(goal, safe="/"), "wrong": wrong, "theme": ""}
        return HTMLResponse(self._templates.whole("login.html", values), status_code=403 if wrong else 200)

    async def _logout(self, request: Request) -> Response:
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(self._access.cookie)
        return answer

    # Refusals.

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, GaplessError)
        status = next((code for kind, code in STATUS_OF.items() if isinstance(error, kind)), 422)
        if request.method == "POST" or request.url.path.startswith(STREAM):
            return problem(status, error.what, error.remedy)
        return await self._trouble(request, status, error.what, error.remedy)

    async def _missing(self, request: Request, _: Exception) -> Response:
        return await self._trouble(
            request, 404, f"there is no page {request.url.path}", "The menu leads to those that there are."
        )

    async def _trouble(self, request: Request, status: int, what: str, remedy: str) -> Response:
        sight = self._sight()
        around = {"page": NOT_FOUND, "shell": shell(sight), "at": sight.at, "what": what, "remedy": remedy}
        values = self._frame(request) | around
        return HTMLResponse(self._templates.whole("trouble.html", values), status_code=status)


def _params(request: Request) -> dict[str, str]:
    return {**request.query_params, **request.path_params}


async def _body(request: Request) -> bytes:
    """Raises GaplessError for one that is too large."""
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > BODY_LIMIT:
            raise GaplessError(f"the request has more than {BODY_LIMIT} bytes", "Say it in fewer words.")
    return found


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await _body(request) or b"{}")
    except ValueError as error:
        raise GaplessError(f"the request is not JSON: {error}", "Reload the page, and try again.") from error
    if not isinstance(body, dict):
        raise GaplessError("the request is no JSON object", "Reload the page, and try again.")
    return body
