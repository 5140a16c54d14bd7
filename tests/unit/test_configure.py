"""`gapless config` on pretended instances with real live settings: refused whole, obeyed by all, gone back to, staged,
and carried on with by the next control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gapless.api.rest import rest_app
from gapless.config import NEEDS_RESTART, Settings, live
from gapless.config.live_settings import Live
from gapless.control import configure
from gapless.control.audience import ANSWER_LIMIT_S
from gapless.control.configure import Wanted
from gapless.control.publisher import Publisher
from gapless.core.configured import ConfigReply
from gapless.core.errors import Busy, ConfigError, InvalidTransition, UnknownName
from gapless.core.model import RolloutPolicy, Service, Window
from gapless.service.config_follower import Follower
from gapless.service.identity import Identity
from tests.unit.control_kit import ME, WEB, Rig

STAGED = replace(WEB, instances=4, rollout=RolloutPolicy(hold_s=5.0, min_samples=40, power=0.0, patience_s=60.0))
HALF = 5_000


class Shop(Settings):
    price: int = 3
    name: str = ""


class Talker:
    """A worker of an instance: the real follower and real live settings, joined to whichever control plane is there."""

    def __init__(self, rig: Rig, instance: str, worker: str = "1") -> None:
        self.instance = instance
        self.settings: Live[Shop] = live(Shop, env={}, world=rig.world)
        self.worker = worker
        self.mute = False
        self._rig = rig
        who = Identity(service="web", instance=instance)
        self.follower = Follower(self.settings, who, rig.world, "", self._stream, self._say)
        self.follower._worker = worker

    async def _stream(self) -> AsyncGenerator[bytes]:
        plane = self._rig.plane
        async for line in plane.publisher.follow("web", self.instance, self.worker):
            if plane is not self._rig.plane:
                raise ConnectionResetError("the control plane was killed")
            yield line

    async def _say(self, reply: ConfigReply) -> None:
        if not self.mute:
            self._rig.plane.publisher.audience.hear("web", reply)

    async def begin(self) -> None:
        await self.settings.load(await self.follower.first())
        self.following = asyncio.ensure_future(self.follower.follow())


class Shopping(Rig):
    """With a talker for each instance, and answers of each by its own count. `bad`: prices at which requests fail."""

    def __init__(self, *services: Service) -> None:
        super().__init__(*services)
        self.talkers: dict[str, Talker] = {}
        self.bad_prices: set[int] = set()

    async def begin(self) -> None:
        await self.up()
        await self.settle()
        await self.join()

    async def join(self) -> None:
        for instance in self.live():
            if instance.id not in self.talkers:
                talker = self.talkers[instance.id] = Talker(self, instance.id)
                await talker.begin()
        await self.world.advance(0.1)

    def prices(self) -> list[int]:
        return sorted(talker.settings.latest.price for talker in self.talkers.values())

    async def run(self, seconds: float) -> None:
        """With ten requests a second for each instance."""
        for _ in range(round(seconds * 2)):
            for name, talker in self.talkers.items():
                known = self.fleet.answered.get(name, Window())
                errors = 2 if talker.settings.latest.price in self.bad_prices else 0
                self.fleet.answered[name] = Window(requests=known.requests + 5, errors=known.errors + errors)
            await self.world.advance(0.5)

    async def until_staged(self) -> str:
        for _ in range(200):
            stage = self.plane.records.config("web").stage
            if stage and stage.state.ended:
                return str(stage.state)
            await self.run(1.0)
        raise AssertionError(f"never ended: {self.plane.records.config('web').stage}")

    async def end(self) -> None:
        for talker in self.talkers.values():
            talker.following.cancel()
        await self.down()


async def asked(rig: Rig, act: Any) -> Any:
    """What a verb answers, while time goes on."""
    task = asyncio.ensure_future(act)
    for _ in range(100):
        await rig.world.advance(0.2)
        if task.done():
            break
    return await task


async def refused(rig: Rig, act: Any, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        await asked(rig, act)
    return str(caught.value)


async def test_a_change_reaches_all_and_is_in_the_history_and_can_be_gone_back_to() -> None:
    rig = Shopping()
    await rig.begin()
    config = rig.plane.config
    first = await asked(rig, config.set("web", {"price": "5"}, [], ME))
    assert rig.prices() == [5, 5]
    assert (first["revision"], first["instances"], first["lacking"]) == (1, sorted(rig.talkers), [])
    await asked(rig, config.set("web", {"price": "6", "name": "ada"}, [], replace(ME, ticket="SHOP-7")))
    await asked(rig, config.set("web", {}, ["name"], ME))
    assert [(r.number, r.what) for r, _ in config.history("web")] == [
        (3, "name: ada → (not set)"),
        (2, "name: (not set) → ada; price: 5 → 6"),
        (1, "price: (not set) → 5"),
    ]
    assert [standing for _, standing in config.history("web")] == ["in force", "", ""]
    second = config.history("web")[1][0]
    assert (second.who, second.ticket) == ("tester", "SHOP-7")
    assert config.diff("web", 1, 3) == (1, 3, ["price: 5 → 6"])
    assert config.diff("web", None, 0) == (2, 3, ["name: ada → (not set)"])
    assert config.diff("web", None, 1) == (0, 1, ["price: (not set) → 5"])
    assert (await asked(rig, config.rollback("web", 1, ME)))["revision"] == 4
    assert rig.prices() == [5, 5]
    await asked(rig, config.rollback("web", 0, ME))
    assert rig.prices() == [6, 6]
    change = rig.plane.records.changes(1)[0]
    assert (change.who, change.why, change.service) == ("tester", "a test", "web")
    assert "configuration of web, revision 5: price: 5 → 6" in change.what
    found = await asked(rig, config.get("web"))
    assert found["settings"]["price"] == {"value": "6", "from": "store (revision 5)"}
    assert found["label"] == "as revision 3"
    await asked(rig, config.set("web", {"price": "6"}, [], ME))
    assert rig.plane.records.config("web").current == 5, "nothing is different"
    await rig.end()


async def test_what_any_instance_refuses_is_written_nowhere() -> None:
    rig = Shopping()
    await rig.begin()
    config = rig.plane.config
    await asked(rig, config.set("web", {"price": "5"}, [], ME))
    written = rig.plane.records.revision
    told = await refused(rig, config.set("web", {"price": "many", "pirce": "1"}, [], ME))
    assert 'store (revision 2): price: "many": not a whole number' in told
    assert 'store (revision 2): pirce: unknown key; did you mean "price"?' in told
    places = {"price": "web.yaml:7"}
    wanted = {"web": Wanted(values={"price": "x"}, places=places)}
    assert "web.yaml:7: price:" in await refused(rig, config.replace(wanted, "abc", ME))

    @next(iter(rig.talkers.values())).settings.check
    def cheap(before: Shop, after: Shop) -> bool:
        return after.price < 10

    assert "cheap refuses: it returned False" in await refused(rig, config.set("web", {"price": "10"}, [], ME))
    for talker in list(rig.talkers.values())[:1]:
        talker.mute = True
    told = await refused(rig, config.set("web", {"price": "6"}, [], ME))
    assert f"did not answer within {ANSWER_LIMIT_S:g} s" in told
    assert "not set in the store" in await refused(rig, config.set("web", {}, ["name"], ME))
    assert "has nothing inside" in await refused(rig, config.set("web", {"price.max": "6"}, [], ME))
    assert "no path" in await refused(rig, config.set("web", {"price..max": "6"}, [], ME))
    await refused(rig, config.set("nobody", {"price": "6"}, [], ME), UnknownName)
    await refused(rig, config.rollback("web", 9, ME), UnknownName)
    await refused(rig, config.rollback("web", 0, ME), UnknownName)
    assert (rig.plane.records.revision, rig.prices()) == (written, [5, 5])
    await rig.end()


async def test_without_a_listener_only_what_is_asked_for_unchecked_is_written() -> None:
    rig = Shopping()
    await rig.up()
    await rig.settle()
    config = rig.plane.config
    assert "no instance of web listens" in await refused(rig, config.set("web", {"price": "5"}, [], ME))
    await asked(rig, config.set("web", {"price": "5"}, [], ME, unchecked=True))
    assert "not checked by any instance" in rig.plane.records.changes(1)[0].what
    await rig.join()
    assert rig.prices() == [5, 5]
    await rig.end()


async def test_a_ready_instance_that_does_not_listen_yet_is_waited_for_and_then_stops_the_change() -> None:
    rig = Shopping()
    await rig.begin()
    late = next(iter(rig.talkers.values()))
    late.following.cancel()
    await rig.world.advance(0.1)
    changing = asyncio.ensure_future(rig.plane.config.set("web", {"price": "5"}, [], ME))
    await rig.world.advance(3.0)
    late.following = asyncio.ensure_future(late.follower.follow())
    await rig.world.advance(1.0)
    assert (await changing)["instances"] == sorted(rig.talkers)
    assert rig.prices() == [5, 5]
    late.following.cancel()
    await rig.world.advance(0.1)
    told = await refused(rig, rig.plane.config.set("web", {"price": "6"}, [], ME))
    assert f"{late.instance}: it does not listen" in told
    assert "--unchecked" in told
    await rig.end()


async def test_nobody_who_hangs_stops_the_way_back() -> None:
    rig = Shopping()
    await rig.begin()
    config = rig.plane.config
    for price in ("5", "6"):
        await asked(rig, config.set("web", {"price": price}, [], ME))
    hanging, other = rig.talkers.values()
    hanging.mute = True
    assert "did not answer" in await refused(rig, config.set("web", {"price": "7"}, [], ME))
    outcome = await asked(rig, config.rollback("web", 0, ME))
    assert (outcome["revision"], outcome["lacking"]) == (3, [hanging.instance])
    assert other.settings.latest.price == 5
    for talker in rig.talkers.values():
        talker.following.cancel()
    await rig.world.advance(0.1)
    await asked(rig, config.rollback("web", 2, ME))
    assert rig.plane.records.config("web").current == 4
    await rig.end()


async def test_two_at_once_are_both_kept() -> None:
    rig = Shopping()
    await rig.begin()
    config = rig.plane.config
    both = asyncio.gather(config.set("web", {"price": "5"}, [], ME), config.set("web", {"name": "ada"}, [], ME))
    await asked(rig, both)
    assert config.history("web")[0][0].values == {"price": "5", "name": "ada"}
    await rig.end()


async def test_several_services_change_together_or_not_at_all() -> None:
    rig = Shopping(WEB, replace(WEB, name="db", routes=()))
    await rig.begin()
    wanted = {"web": Wanted(values={"price": "5"}), "db": Wanted(values={"size": "5"})}
    assert "no instance of db listens" in await refused(rig, rig.plane.config.replace(wanted, "abc", ME))
    assert rig.plane.records.config("web").current == 0
    await asked(rig, rig.plane.config.replace(wanted, "abc", ME, unchecked=True))
    revisions = [rig.plane.records.config_revision(name, 1) for name in wanted]
    assert [revision.label for revision in revisions if revision] == ["abc", "abc"]
    assert len({rig.plane.records.revision_of(revision) for revision in revisions}) == 1, "one transaction"
    assert [change.service for change in rig.plane.records.changes(2)] == ["db", "web"]
    await rig.end()


async def test_only_so_many_revisions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configure, "KEPT", 3)
    rig = Shopping()
    await rig.begin()
    for price in range(10, 16):
        await asked(rig, rig.plane.config.set("web", {"price": str(price)}, [], ME))
    assert [each.number for each, _ in rig.plane.config.history("web")] == [6, 5, 4]
    await refused(rig, rig.plane.config.rollback("web", 3, ME), UnknownName)
    await rig.end()


async def test_what_needs_a_restart_is_told() -> None:
    class Pool(Settings):
        size: int = 1

    Pool.model_fields["size"].metadata.append(NEEDS_RESTART)
    rig = Shopping()
    await rig.begin()
    for talker in rig.talkers.values():
        talker.follower._live = live(Pool, env={}, world=rig.world)
        await talker.follower._live.load()
    outcome = await asked(rig, rig.plane.config.set("web", {"size": "9"}, [], ME))
    assert outcome["pending"] == ["size: 1 → 9"]
    await rig.end()


async def test_a_good_stage_goes_to_all() -> None:
    rig = Shopping(STAGED)
    await rig.begin()
    await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME, weight=HALF))
    assert rig.prices() == [3, 3, 5, 5]
    with pytest.raises(Busy):
        await rig.plane.config.set("web", {"price": "6"}, [], ME)
    with pytest.raises(Busy):
        await rig.plane.commands.scale("web", 5, ME)
    assert await rig.until_staged() == "promoted"
    assert rig.prices() == [5, 5, 5, 5]
    assert rig.plane.records.config("web").current == 1
    told = [c.what for c in rig.plane.records.changes(3)]
    assert told[0] == "configuration of web, revision 1: promoted"
    assert told[1] == "configuration of web, revision 1: all instances get it"
    assert "50 % of the instances" in rig.plane.records.changes(2)[1].why
    await rig.end()


async def test_a_bad_stage_goes_back_by_itself() -> None:
    rig = Shopping(STAGED)
    await rig.begin()
    await asked(rig, rig.plane.config.set("web", {"price": "4"}, [], ME))
    rig.bad_prices = {5}
    await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME, weight=2_500))
    assert rig.prices() == [4, 4, 4, 5]
    assert await rig.until_staged() == "rolled back"
    assert rig.prices() == [4, 4, 4, 4]
    change = rig.plane.records.changes(1)[0]
    assert change.what == "configuration of web, revision 2: back to revision 1"
    assert "the other instances" in change.why or "error rate" in change.why
    assert change.numbers["canary_errors"] > 0
    await asked(rig, rig.plane.config.set("web", {"price": "6"}, [], ME))
    assert [(each.number, standing) for each, standing in rig.plane.config.history("web")] == [
        (3, "in force"),
        (2, "rolled back"),
        (1, ""),
    ]
    await asked(rig, rig.plane.config.rollback("web", 0, ME))
    assert rig.prices() == [4, 4, 4, 4], "not to what was taken back"
    await rig.end()


async def test_an_unhealthy_member_brings_it_back_and_so_does_a_crash() -> None:
    for crash in (True, False):
        rig = Shopping(STAGED)
        await rig.begin()
        await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME, weight=HALF))
        stage = rig.plane.records.config("web").stage
        assert stage
        await rig.run(1.5)
        member = stage.members[0]
        if crash:
            rig.fleet.crash(member)
        else:
            probe = rig.fleet.probe
            rig.fleet.probe = lambda name, probe=probe, member=member: name != member and probe(name)  # type: ignore[method-assign]
        assert await rig.until_staged() == "rolled back"
        assert {t.settings.latest.price for name, t in rig.talkers.items() if name != member or not crash} == {3}
        await rig.end()


async def test_a_killed_control_plane_goes_on_with_the_stage() -> None:
    for bad, end, prices in ((set[int](), "promoted", [5] * 4), ({5}, "rolled back", [3] * 4)):
        rig = Shopping(STAGED)
        await rig.begin()
        rig.bad_prices = bad
        await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME, weight=HALF))
        members = rig.plane.records.config("web").stage.members  # type: ignore[union-attr]
        await rig.run(1.0)
        await rig.kill()
        await rig.run(5.0)
        assert rig.prices() == [3, 3, 5, 5]
        await rig.up()
        for talker in rig.talkers.values():
            talker.following.cancel()
            talker.following = asyncio.ensure_future(talker.follower.follow())
        await rig.run(1.0)
        stage = rig.plane.records.config("web").stage
        assert stage
        assert stage.members == members
        assert await rig.until_staged() == end
        assert rig.prices() == prices
        await rig.end()


async def test_nobody_is_told_that_there_is_nothing_before_the_records_are_read() -> None:
    rig = Shopping()
    await rig.begin()
    await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME))
    await rig.kill()
    publisher = Publisher(rig.plane.records, rig.plane.system.state / "config", rig.world)
    reading = asyncio.ensure_future(anext(publisher.follow("web", "web-1", "1")))
    await rig.world.advance(1.0)
    assert not reading.done()
    await publisher.step()
    assert b'"price":"5"' in await reading
    await rig.end()


async def test_a_worker_that_connects_again_takes_the_place_of_its_old_connection() -> None:
    rig = Shopping()
    await rig.begin()
    old = [talker.following for talker in rig.talkers.values()]
    for talker in rig.talkers.values():
        talker.following = asyncio.ensure_future(talker.follower.follow())
    outcome = await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME))
    assert (outcome["instances"], outcome["lacking"]) == (sorted(rig.talkers), [])
    assert len(rig.plane.publisher.audience.of("web")) == 2
    assert (await asked(rig, rig.plane.config.get("web")))["instance"] in rig.talkers
    for following in old:
        following.cancel()
    await rig.end()


async def test_a_stage_is_ended_by_hand_and_needs_two_instances() -> None:
    rig = Shopping(STAGED)
    await rig.begin()
    await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME, weight=HALF))
    await asked(rig, rig.plane.config.rollback("web", 0, ME))
    assert rig.prices() == [3, 3, 3, 3]
    await rig.end()
    alone = Shopping(replace(STAGED, instances=1))
    await alone.begin()
    told = await refused(alone, alone.plane.config.set("web", {"price": "5"}, [], ME, weight=HALF), InvalidTransition)
    assert "web has 1 ready instances" in told
    await alone.end()


async def test_a_stage_that_nobody_answers_for_goes_back_for_want_of_evidence() -> None:
    rig = Shopping(replace(STAGED, rollout=replace(STAGED.rollout, patience_s=20.0)))
    await rig.begin()
    await asked(rig, rig.plane.config.set("web", {"price": "5"}, [], ME, weight=HALF))
    for _ in range(60):
        await rig.world.advance(0.5)
    stage = rig.plane.records.config("web").stage
    assert stage
    assert (str(stage.state), "no sufficient evidence" in stage.reason) == ("rolled back", True)
    assert rig.prices() == [3, 3, 3, 3]
    await rig.end()


WRONG: tuple[tuple[str, str, Any, int, str], ...] = (
    ("POST", "/v1/services/web/config", {}, 422, "nothing is to be set"),
    ("POST", "/v1/services/web/config", {"set": [1]}, 422, "nothing is to be set"),
    ("POST", "/v1/services/web/config", {"set": {"price": 5}, "stage": "half"}, 422, "not a share"),
    ("POST", "/v1/services/web/config", {"set": {"price": "x" * 300_000}}, 422, "bytes of"),
    ("POST", "/v1/services/none/config", {"set": {"price": 5}}, 404, "no service"),
    ("POST", "/v1/services/web/config/rollback", {"to": "x"}, 422, "no revision"),
    ("POST", "/v1/services/web/config/rollback", {"to": 3}, 404, "no revision 3"),
    ("POST", "/v1/config/import", {}, 422, "no service to import"),
    ("POST", "/v1/config/import", {"services": {"web": {"values": 5}}}, 422, "below `values`"),
    ("POST", "/v1/services/web/configuration/replies", {"instance": 5}, 422, "does not fit"),
    ("GET", "/v1/services/web/config/stage", None, 404, "was staged"),
    ("GET", "/v1/services/web/config/diff?from=a", None, 422, "no revision"),
    ("GET", "/v1/services/none/config", None, 404, "no service"),
    ("GET", "/v1/services/none/config/history", None, 404, "no service"),
)


async def test_wrong_requests_are_answered_with_what_would_be_right() -> None:
    rig = Shopping()
    await rig.begin()
    transport = httpx.ASGITransport(rest_app(rig.plane, lambda: None))
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        for method, path, body, status, said in WRONG:
            answer = await client.request(method, path, json=body)
            assert answer.status_code == status, (path, body, answer.text)
            assert said in answer.json()["error"], (path, body)
            assert answer.json()["remedy"] or "replies" in path
        found = (await client.get("/v1/status")).json()["services"]["web"]["config"]
    assert found == {"revision": 0, "stage": None}
    await rig.end()
