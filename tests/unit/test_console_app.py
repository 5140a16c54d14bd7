"""The console's HTTP: every page in every state of a rollout, acts, and who is kept out. On a pretended system."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gapless.console.app import ConsoleApp
from gapless.console.guard import Access
from gapless.console.lately import Lately
from gapless.console.site import PAGES
from gapless.core.model import Address
from gapless.core.model.alert import Action, ActionKind, ActionState, Alert, AlertState, Severity, Silence
from gapless.core.model.incident import Incident
from gapless.testing.fleet import Script
from gapless.testing.traffic import FakeTraffic
from tests.unit.control_kit import ME, Rig

HOST = "127.0.0.1:8070"
ALONE = Access(listen=Address(host="127.0.0.1", port=8070), key=b"k" * 32, who="ada")
GUARDED = Access(listen=Address(host="0.0.0.0", port=8070), key=b"", token="a token")
PATHS = ("/", "/rollouts", "/rollouts/web", "/incidents", "/topology", "/instances", "/traces", "/configuration",
         "/configuration/web", "/objectives")  # fmt: skip


def client(app: Any, **more: Any) -> httpx.AsyncClient:
    headers = {"origin": f"http://{HOST}", **more}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HOST}", headers=headers)


@asynccontextmanager
async def system(access: Access = ALONE) -> AsyncIterator[tuple[Rig, httpx.AsyncClient]]:
    rig = Rig()
    await rig.up()
    await rig.settle()
    try:
        async with client(ConsoleApp(rig.plane, access, rig.world).asgi()) as asking:
            yield rig, asking
    finally:
        await rig.down()


async def page_token(asking: httpx.AsyncClient) -> str:
    found = re.search(r'name="gapless-act" content="(\w+)"', (await asking.get("/")).text)
    assert found
    return found[1]


async def act(asking: httpx.AsyncClient, verb: str, **body: str) -> httpx.Response:
    token = await page_token(asking)
    return await asking.post(f"/acts/{verb}", json={"service": "web", **body}, headers={"x-gapless-act": token})


async def every_page(asking: httpx.AsyncClient, rig: Rig) -> None:
    ids = [i.id for i in rig.plane.records.instances()]
    for path in (*PATHS, *(f"/instances/{name}" for name in ids)):
        answer = await asking.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert "<h1" in answer.text, path


async def test_every_page_before_anything_was_started() -> None:
    rig = Rig()
    await rig.up()
    async with client(ConsoleApp(rig.plane, ALONE, rig.world).asgi()) as asking:
        await every_page(asking, rig)
    await rig.down()


async def test_every_page_through_a_good_rollout() -> None:
    async with system() as (rig, asking):
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        for _ in range(14):
            await every_page(asking, rig)
            await rig.pass_time(1.0)
        assert await rig.end_rollout() == "promoted"
        await every_page(asking, rig)
        assert "promoted" in (await asking.get("/rollouts/web/1")).text


async def test_every_page_after_a_bad_release() -> None:
    async with system() as (rig, asking):
        rig.bad.add("2.0.0")
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        await rig.pass_time(6.0)
        await every_page(asking, rig)
        assert await rig.end_rollout() == "rolled back"
        await every_page(asking, rig)
        assert "goes back" in (await asking.get("/rollouts")).text


async def test_every_page_after_a_release_that_crashes() -> None:
    async with system() as (rig, asking):
        rig.fleet.scripts["2.0.0"] = Script(crash="exited with status 1", log="Traceback\nno such <package>")
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        assert await rig.end_rollout() == "rolled back"
        await every_page(asking, rig)
        shown = (await asking.get("/incidents")).text
        assert "never became ready" in shown
        assert "<package>" not in shown


async def test_acts_move_a_rollout_and_carry_their_author_and_reason() -> None:
    async with system() as (rig, asking):
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        for verb in ("pause", "resume", "abort"):
            answer = await act(asking, verb, why=f"{verb} it")
            assert answer.status_code == 200, answer.text
            assert answer.json()["done"]
        newest = [c for c in rig.plane.records.changes() if c.who == "ada"]
        assert [c.why for c in newest] == ["abort it", "resume it", "pause it"]


async def test_promote_then_roll_back() -> None:
    async with system() as (rig, asking):
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        assert (await act(asking, "promote")).status_code == 200
        assert await rig.end_rollout() == "promoted"
        answer = await act(asking, "rollback", why="second thoughts")
        assert "Rolling back" in answer.json()["done"]


async def test_an_alert_is_silenced_for_a_time_with_a_reason_and_heard_again() -> None:
    async with system() as (rig, asking):
        alert = await rig.plane.watching.alerts.test("web", Severity.P2, {}, ME)
        number = str(alert.number)
        refused = await act(asking, "silence", number=number, **{"for": "2h"})
        assert (refused.status_code, refused.json()["error"]) == (422, "a silence needs a reason")
        wrong = await act(asking, "silence", number=number, why="drill", **{"for": "soon"})
        assert wrong.status_code == 422
        done = await act(asking, "silence", number=number, why="drill", **{"for": "2h"})
        assert done.json()["done"] == "Silenced for 2h: test. It is still shown."
        (silence,) = rig.plane.records.all_of(Silence)
        assert (silence.rule, silence.service, silence.why, silence.who) == ("test", "web", "drill", "ada")
        assert silence.until_at - silence.since_at == 7_200.0
        page = (await asking.get("/incidents")).text
        assert "drill" in page
        assert "silenced" in page
        assert (await act(asking, "unsilence", number=str(silence.number))).status_code == 200
        assert rig.plane.records.all_of(Silence) == []
        assert (await act(asking, "silence", number="99", why="x", **{"for": "2h"})).status_code == 404


async def test_what_was_done_about_an_alert_is_undone() -> None:
    async with system() as (rig, asking):
        action = Action(
            number=1,
            alert=0,
            service="web",
            kind=ActionKind.SCALE,
            state=ActionState.DONE,
            what="web: 1 → 2 instances",
            at=rig.world.time(),
            undo={"from": "1", "to": "2"},
        )
        alert = Alert(number=1, key="cpu/web", rule="cpu", service="web", state=AlertState.FIRING, since_at=1.0)
        await rig.plane.records.write(replace(action, alert=1), alert)
        assert "undo-action" in (await asking.get("/incidents")).text
        answer = await act(asking, "undo-action", number="1", why="enough")
        assert answer.json()["done"] == "Undone: web: 1 → 2 instances."
        assert rig.plane.records.all_of(Action)[0].state is ActionState.UNDONE
        assert "undo-action" not in (await asking.get("/incidents")).text
        assert (await act(asking, "undo-action", number="7")).status_code == 404


async def test_a_change_is_undone_once_and_what_cannot_be_is_not_offered() -> None:
    async with system() as (rig, asking):
        await rig.plane.config.set("web", {"price.max": 5}, (), ME, unchecked=True)
        await rig.plane.config.set("web", {"price.max": 7}, (), ME, unchecked=True)
        first, last = (change.number for change in reversed(rig.plane.records.changes(2)))
        assert offered((await asking.get("/incidents")).text) == [last]
        refused = await act(asking, "undo", number=str(first))
        assert (refused.status_code, "rests on it" in refused.json()["error"]) == (422, True)
        done = await act(asking, "undo", number=str(last), why="too dear")
        assert done.json()["done"].startswith(f"Undone: change {last}, by change ")
        again = await act(asking, "undo", number=str(last))
        assert "was undone before, by change" in again.json()["done"]
        page = (await asking.get("/incidents")).text
        assert f"undone by change {last + 1}" in page
        assert last not in offered(page)


async def test_undoing_a_deploy_moves_the_users_back() -> None:
    async with system() as (rig, asking):
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        assert (await act(asking, "promote")).status_code == 200
        assert await rig.end_rollout() == "promoted"
        promoted, deployed = offered((await asking.get("/rollouts/web")).text)
        done = await act(asking, "undo", number=str(deployed), why="second thoughts")
        assert "Rollout 2 moves the users." in done.json()["done"]
        assert await rig.end_rollout() == "promoted"
        assert not {promoted, deployed} & set(offered((await asking.get("/incidents")).text))


def offered(page: str) -> list[int]:
    """The changes that can be undone there."""
    return [int(number) for number in re.findall(r'data-act="undo"[^>]* data-number="(\d+)"', page)]


async def test_a_service_is_scaled_but_not_while_it_moves() -> None:
    async with system() as (rig, asking):
        assert 'data-act="scale"' in (await asking.get("/instances")).text
        done = await act(asking, "scale", instances="3", why="a sale")
        assert done.json()["done"] == "Scaled: web gets 3 instances."
        service = rig.plane.records.service("web")
        assert service
        assert service.instances == 3
        for wrong in ("0", "many", ""):
            assert (await act(asking, "scale", instances=wrong)).status_code == 422
        await rig.settle()
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        await rig.pass_time(2.0)
        assert 'data-act="scale"' not in (await asking.get("/instances")).text
        assert (await act(asking, "scale", instances="2")).status_code == 409


async def test_the_draft_of_a_post_mortem_is_downloaded() -> None:
    async with system() as (rig, asking):
        incident = Incident(number=3, opened_at=rig.world.time(), title="web fails", services=("web",), state="closed")
        await rig.plane.records.write(incident)
        assert "/incidents/3/post-mortem.md" in (await asking.get("/incidents")).text
        answer = await asking.get("/incidents/3/post-mortem.md")
        assert answer.headers["content-type"].startswith("text/markdown")
        assert "post-mortem-3.md" in answer.headers["content-disposition"]
        assert "web fails" in answer.text
        assert (await asking.get("/incidents/4/post-mortem.md")).status_code == 404


async def test_a_rollouts_charts_outlive_the_gateways_memory() -> None:
    async with system() as (rig, asking):
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        assert await rig.end_rollout() == "promoted"
        assert "data-chart" in (await asking.get("/rollouts/web")).text
        forgetful = ConsoleApp(rig.plane, ALONE, rig.world)
        forgetful._lately = Lately(FakeTraffic(rig.world))
        async with client(forgetful.asgi()) as again:
            page = (await again.get("/rollouts/web")).text
        figures = json.loads(html.unescape(re.search(r'data-figures="([^"]*)"', page)[1]))  # type: ignore[index]
        assert all(any(value is not None for value in side) for side in figures["errors"]["series"])


async def test_gateways_elsewhere_are_counted_and_named_when_they_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    async def details(_: FakeTraffic) -> dict[str, Any]:
        return {"gateways": [{"node": "edge", "lagging": True, "refused": ""}]}

    monkeypatch.setattr(FakeTraffic, "details", details)
    async with system() as (_, asking):
        page = (await asking.get("/topology")).text
        assert "1 more elsewhere" in page
        assert "goes on with the routes that it has" in page


async def test_any_two_revisions_are_compared() -> None:
    async with system() as (rig, asking):
        for value in (5, 7, 9):
            await rig.plane.config.set("web", {"price.max": value}, (), ME, unchecked=True)
        page = (await asking.get("/configuration/web?before=1&after=3")).text
        assert "price.max: 5 → 9" in html.unescape(page.partition('id="compared"')[2].partition("</ul>")[0])
        page = (await asking.get("/configuration/web?before=2&after=2")).text
        assert "Nothing is different." in page
        refused = await asking.get("/configuration/web?before=1&after=x")
        assert (refused.status_code, "has no revision" in refused.text) == (404, True)


async def test_restarting_in_place() -> None:
    async with system() as (_, asking):
        assert (await act(asking, "reload")).json() == {"done": "Restarted in place: 2 instances of web."}


@pytest.mark.parametrize(
    ("verb", "status", "said"),
    [("pause", 404, "no rollout"), ("explode", 404, "no act"), ("config-rollback", 404, "no revision")],
)
async def test_an_act_that_fails_says_why_and_what_to_do(verb: str, status: int, said: str) -> None:
    async with system() as (_, asking):
        answer = await act(asking, verb)
        assert answer.status_code == status
        assert said in answer.json()["error"]
        assert answer.json()["remedy"]


async def test_acts_need_our_origin_our_host_and_our_token() -> None:
    async with system() as (rig, asking):
        token = {"x-gapless-act": await page_token(asking)}
        body = {"service": "web"}
        for headers, status in (
            ({}, 403),
            ({"x-gapless-act": "made up"}, 403),
            (token | {"origin": "http://evil.example"}, 403),
            (token | {"host": "evil.example"}, 421),
        ):
            answer = await asking.post("/acts/reload", json=body, headers=headers)
            assert (answer.status_code, bool(answer.json()["remedy"])) == (status, True)
        assert ("reload", "web-1") not in rig.fleet.calls


async def test_a_page_of_another_name_is_not_answered() -> None:
    async with system() as (_, asking):
        assert (await asking.get("/", headers={"host": "evil.example"})).status_code == 421


@pytest.mark.parametrize("content", [b"not json", b"[]", b"x" * 20_000, b'{"service": 3}'])
async def test_bad_bodies_are_refused(content: bytes) -> None:
    async with system() as (_, asking):
        token = await page_token(asking)
        answer = await asking.post("/acts/pause", content=content, headers={"x-gapless-act": token})
        assert answer.status_code == 422
        assert answer.json()["remedy"]


@pytest.mark.parametrize(
    "path", ["/nothing", "/rollouts/nope", "/rollouts/web/77", "/instances/nope", "/configuration/nope"]
)
async def test_what_is_not_there_is_a_page_that_says_so(path: str) -> None:
    async with system() as (_, asking):
        answer = await asking.get(path)
        assert answer.status_code == 404
        assert "To the fleet" in answer.text


async def test_nothing_is_loaded_from_elsewhere_and_nothing_inline() -> None:
    async with system() as (rig, asking):
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        await rig.pass_time(4.0)
        for path in PATHS:
            answer = await asking.get(path)
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*\ssrc=)|https?://", answer.text), path


async def test_assets_are_kept_for_ever_by_their_content() -> None:
    async with system() as (_, asking):
        address = re.search(r'src="(/assets/\w+/main.js)"', (await asking.get("/")).text)
        assert address
        answer = await asking.get(address[1])
        assert "immutable" in answer.headers["cache-control"]
        assert (await asking.get("/assets/old/main.js")).headers["cache-control"] == "no-store"
        for wrong in ("/assets/x/nothing.js", "/assets/x/..%2fapp.py", "/assets/x/uPlot.LICENSE"):
            assert (await asking.get(wrong)).status_code == 404


async def test_with_a_token_one_logs_in_and_is_named_in_the_change_log() -> None:
    async with system(GUARDED) as (rig, asking):
        asked = await asking.get("/instances")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login?to=/instances")
        assert (await asking.get("/stream")).status_code == 401
        wrong = asyncio.ensure_future(asking.post("/login", data={"token": "guess", "name": "eve"}))
        while not wrong.done():
            await rig.world.advance(0.5)
            await asyncio.sleep(0)
        assert (await wrong).status_code == 403
        right = await asking.post("/login?to=/instances", data={"token": "a token", "name": "grace"})
        assert (right.status_code, right.headers["location"]) == (303, "/instances")
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert (await asking.get("/instances")).status_code == 200
        assert (await act(asking, "reload")).status_code == 200
        assert rig.plane.records.changes(1)[0].who == "grace"
        await asking.post("/logout")
        assert (await asking.get("/")).status_code == 303


@pytest.mark.parametrize("goal", ["//evil.example", "https://evil.example", "/\\evil.example"])
async def test_a_log_in_leads_nowhere_else(goal: str) -> None:
    async with system(GUARDED) as (_, asking):
        answer = await asking.post("/login", params={"to": goal}, data={"token": "a token"})
        assert answer.headers["location"] == "/"


class Stream:
    """What a stream sends, event by event."""

    def __init__(self, app: Any, path: str) -> None:
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"host", HOST.encode())], "http_version": "1.1", "scheme": "http",
            "server": ("127.0.0.1", 8070), "client": ("127.0.0.1", 1), "root_path": "",
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self._receive, self._sent.put))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def start(self) -> int:
        return int((await self._sent.get())["status"])

    async def event(self, rig: Rig) -> tuple[str, dict[str, Any]]:
        while self._sent.empty():
            await rig.world.advance(0.05)
            await asyncio.sleep(0)
        text = (await self._sent.get())["body"].decode()
        lines = dict(line.split(": ", 1) for line in text.strip().splitlines() if ": " in line)
        return lines["event"], json.loads(lines["data"])

    async def close(self) -> None:
        self._gone.set()
        await self.task


@pytest.mark.parametrize("path", ["/stream", "/stream/rollouts/web", "/stream/instances", "/stream/topology"])
async def test_a_stream_tells_of_a_change_with_the_regions_that_changed(path: str) -> None:
    async with system() as (rig, _):
        stream = Stream(ConsoleApp(rig.plane, ALONE, rig.world).asgi(), path)
        assert await stream.start() == 200
        assert (await stream.event(rig))[0] == "hello"
        name, first = await stream.event(rig)
        assert name == "patch"
        assert {"menu", "state"} < set(first["regions"])
        await rig.plane.rollouts.deploy("web", Path("v2"), "2.0.0", {}, ME)
        _, patch = await stream.event(rig)
        assert "under way" in patch["regions"]["menu"]
        await stream.close()


@pytest.mark.parametrize("path", ["/stream/nothing", "/stream/instances/nope"])
async def test_there_is_no_stream_of_what_is_not_there(path: str) -> None:
    async with system() as (_, asking):
        assert (await asking.get(path)).status_code == 404


def test_every_page_has_its_template_and_all_assets_stay_small() -> None:
    here = Path(__import__("gapless.console").console.__file__).parent
    assert all((here / "templates" / f"{page.name}.html").is_file() for page in PAGES)
    assert sum(path.stat().st_size for path in (here / "assets").iterdir()) < 1_500_000
    ours = [p for p in (here / "assets").glob("*.js") if not p.name.startswith("uPlot")]
    assert sum(len(p.read_text().splitlines()) for p in ours) <= 600
