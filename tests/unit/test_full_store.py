"""A whole control plane whose store is full for a while: what it notices is held in memory, told, and written later."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace

import pytest

from gapless.control.records import Records
from gapless.core.errors import StoreFull
from gapless.core.model.alert import Action, Alert, AlertState
from gapless.core.model.incident import Incident
from gapless.core.model.notice import Notice, NotifyPolicy, NotifyRoute, Topic
from gapless.core.ports import Op
from gapless.store.memory import MemoryStore
from gapless.testing.world import FakeWorld
from tests.unit.control_kit import ME
from tests.unit.test_alerter import Recorded
from tests.unit.test_notifier import HOOK, Outside
from tests.unit.test_notifier import begun as with_channels

TOLD = NotifyPolicy(channels=(HOOK,), routes=(NotifyRoute(to=("hook",), what=(Topic.ALERTS, Topic.INCIDENTS)),))


class Full(MemoryStore):
    full = False

    async def transact(self, *ops: Op) -> int:
        if self.full:
            raise StoreFull("no space for store.db: nothing was written")
        return await super().transact(*ops)


async def rigged(outside: Outside) -> tuple[Recorded, Full]:
    rig = Recorded()
    rig.store = store = Full(rig.world)
    await with_channels(rig, outside, TOLD)
    await rig.pass_time(12)
    return rig, store


async def test_alerts_fire_and_are_told_once_and_written_when_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    outside = Outside()
    rig, store = await rigged(outside)
    store.full = True
    rig.all_bad = 0.2
    with caplog.at_level(logging.WARNING):
        await rig.pass_time(90)
    [shown] = rig.plane.watching.alerter.now()
    assert (shown["rule"], shown["state"]) == ("errors", "firing")
    assert len(rig.plane.watching.incidents.all()) == 1
    assert [title.partition(":")[0] for _, title in outside.heard] == ["web", "incident 1 opened"]
    assert rig.plane.records.all_of(Action) == [], "what is not written is not begun"
    assert max(Counter(record.getMessage() for record in caplog.records).values()) == 1
    assert caplog.text.count("only kept in memory: no space for store.db: nothing was written\n  → Free some") == 1
    kept = Records(store, lambda: None)
    await kept.load()
    assert kept.all_of(Alert) == []

    store.full = False
    await rig.pass_time(5)
    await kept.load()
    assert [(a.rule, a.state) for a in kept.all_of(Alert)] == [("errors", AlertState.FIRING)]
    assert len(kept.all_of(Incident)) == 1
    assert caplog.text.count("written to the store again") == 1
    assert rig.plane.records.all_of(Action) != []
    await rig.kill()
    await with_channels(rig, outside, TOLD)
    await rig.pass_time(30)
    assert len(outside.heard) == 2, "nothing twice"
    await rig.down()


async def test_an_alert_may_come_and_go_while_nothing_can_be_written() -> None:
    outside = Outside()
    rig, store = await rigged(outside)
    store.full = True
    rig.all_bad = 0.2
    await rig.pass_time(20)
    rig.all_bad = 0.0
    await rig.pass_time(150)
    assert rig.plane.watching.alerter.now() == []
    assert [one["state"] for one in rig.plane.watching.alerter.history(5)] == ["resolved"]
    with pytest.raises(StoreFull):
        await rig.plane.watching.alerts.silence("errors", "web", {}, 60.0, ME)
    store.full = False
    await rig.pass_time(3)
    await rig.kill()
    await with_channels(rig, outside, TOLD)
    assert [one["state"] for one in rig.plane.watching.alerter.history(5)] == ["resolved"]
    titles = [title for _, title in outside.heard]
    assert [title.partition(":")[0] for title in titles if "incident" not in title] == ["web", "over after 2 min"]
    await rig.down()


async def test_a_verb_s_write_takes_the_place_of_what_is_held() -> None:
    outside = Outside()
    rig, store = await rigged(outside)
    store.full = True
    rig.all_bad = 0.2
    await rig.pass_time(20)
    store.full = False
    await rig.plane.watching.alerts.ack(1, ME)
    await rig.pass_time(5)
    kept = Records(store, lambda: None)
    await kept.load()
    assert kept.all_of(Alert)[0].acked_by == "tester"
    await rig.down()


async def test_what_is_held_is_forgotten_by_a_kill_and_fires_again() -> None:
    outside = Outside()
    rig, store = await rigged(outside)
    store.full = True
    rig.all_bad = 0.2
    await rig.pass_time(20)
    await rig.kill()
    store.full = False
    await with_channels(rig, outside, TOLD)
    await rig.pass_time(30)
    assert [title.partition(":")[0] for _, title in outside.heard].count("web") == 2
    await rig.down()


async def test_what_is_kept_and_dropped_on_a_full_store_is_so_in_the_mirror_and_later_in_the_store() -> None:
    store = Full(FakeWorld())
    records, kept = Records(store, lambda: None), Records(store, lambda: None)
    old, new = (Notice(number=n, at=0.0, topic=Topic.ALERTS, title=f"notice {n}") for n in (1, 2))
    await records.keep(old)
    store.full = True
    await records.keep(new, delete=[old])
    assert records.all_of(Notice) == [new]
    await records.keep(delete=[new])
    assert (records.all_of(Notice), records.next_number(Notice)) == ([], 1)
    again = replace(old, title="the number comes again")
    await asyncio.gather(records.keep(again), records.keep(new))
    await records.load()
    assert records.all_of(Notice) == [again, new]
    store.full = False
    await records.keep()
    await records.keep()
    await kept.load()
    assert kept.all_of(Notice) == [again, new]
