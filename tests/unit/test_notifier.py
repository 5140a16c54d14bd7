"""The loop that delivers notices, in a whole control plane on pretended parts: kills, black holes, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from gapless.control.notify.notifier import Notifier
from gapless.core.errors import UnknownName
from gapless.core.model.notice import Channel, NotifyPolicy, NotifyRoute, Topic
from gapless.core.ports import World
from gapless.observe.notice_queue import Attempt, Batch
from tests.unit.control_kit import ME, Rig

HOOK = Channel(name="hook", webhook="http://x")
CHAT = Channel(name="chat", slack="http://y")


class Outside:
    """The other ends: `fate` by kind is `ok`, `fail` or `hang`."""

    def __init__(self) -> None:
        self.fate: dict[str, str] = {}
        self.heard: list[tuple[str, str]] = []

    def sender(self, kind: str):  # type: ignore[no-untyped-def]
        async def send(channel: Channel, batch: Batch, secrets: Mapping[str, str], world: World) -> Attempt:
            if (fate := self.fate.get(kind, "ok")) == "hang":
                await asyncio.Event().wait()
            if fate == "ok":
                self.heard += [(channel.name, told.title) for told in batch.told]
            return Attempt(ok=fate == "ok", error="refused")

        return send


async def begun(rig: Rig, outside: Outside, policy: NotifyPolicy) -> Notifier:
    """A control plane whose channels lead outside."""
    plane = await rig.up()
    senders = {kind: outside.sender(kind) for kind in ("webhook", "slack")}
    plane.watching.notifier.policy, plane.watching.notifier._senders = policy, senders
    await rig.settle()
    return plane.watching.notifier


async def test_a_channel_hears_what_happens_from_its_beginning_on_and_nothing_twice_after_a_restart() -> None:
    rig, outside = Rig(), Outside()
    policy = NotifyPolicy(channels=(HOOK, CHAT), routes=(NotifyRoute(to=("hook",), what=(Topic.CHANGES,)),))
    await begun(rig, outside, policy)
    await rig.pass_time(2)
    assert outside.heard == [], "what was before it is not its business"
    await rig.plane.commands.scale("web", 3, ME)
    await rig.pass_time(3)
    assert outside.heard == [("hook", "scale web from 2 to 3 instances")]
    await rig.kill()
    await begun(rig, outside, policy)
    await rig.pass_time(40)
    assert len(outside.heard) == 1
    await rig.down()


async def test_what_happened_while_nobody_was_there_is_told_by_the_next_control_plane() -> None:
    rig, outside = Rig(), Outside()
    policy = NotifyPolicy(channels=(HOOK,))
    await begun(rig, outside, policy)
    await rig.pass_time(2)
    outside.heard.clear()
    outside.fate["webhook"] = "hang"
    await rig.plane.commands.scale("web", 3, ME)
    await rig.pass_time(1)
    await rig.kill()
    outside.fate.clear()
    await begun(rig, outside, policy)
    await rig.pass_time(3)
    assert ("hook", "scale web from 2 to 3 instances") in outside.heard
    await rig.down()


async def test_a_black_hole_delays_neither_other_channels_nor_the_system() -> None:
    rig, outside = Rig(), Outside()
    notifier = await begun(rig, outside, NotifyPolicy(channels=(HOOK, CHAT)))
    await rig.pass_time(2)
    outside.heard.clear()
    outside.fate["webhook"] = "hang"
    await rig.plane.commands.scale("web", 3, ME)
    await rig.pass_time(15)
    assert [name for name, _ in outside.heard] == ["chat"]
    assert rig.plane.ready
    hook, chat = notifier.status()
    assert (hook["waiting"], hook["error"]) == (1, "no answer within 10 s")
    assert (chat["waiting"], chat["delivered"]) == (0, 1)
    outside.fate.clear()
    await rig.pass_time(15)
    assert [name for name, _ in outside.heard] == ["chat", "hook"]
    await rig.down()


async def test_a_test_is_sent_once_and_says_how_it_went() -> None:
    rig, outside = Rig(), Outside()
    notifier = await begun(rig, outside, NotifyPolicy(channels=(HOOK,)))
    assert (await notifier.test("hook", "ann")).ok
    outside.fate["webhook"] = "fail"
    assert (await notifier.test("hook", "ann")).error == "refused"
    with pytest.raises(UnknownName, match="no channel 'nobody'"):
        await notifier.test("nobody", "ann")
    await rig.down()
