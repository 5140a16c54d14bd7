"""Alerts in a whole control plane on pretended parts: what fires, what is done, and that kills change nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gapless.control import alerter
from gapless.core.errors import GaplessError, InvalidTransition
from gapless.core.model import Route
from gapless.core.model.alert import (
    Action,
    ActionKind,
    Alert,
    AlertPolicy,
    AlertRule,
    AlertState,
    Forced,
    Mode,
    Severity,
)
from gapless.core.model.notice import Notice, Topic
from gapless.core.protect import BreakerRule, Protect
from gapless.observe.alert_defaults import GATEWAY
from gapless.testing.signals import FakeSignals
from tests.unit.control_kit import ME, WEB, Rig

ACT = AlertPolicy(act=Mode.ACT)


class Recorded(Rig):
    """What the gateway answers is recorded every five seconds. `all_bad`: the share of errors of every release."""

    def __init__(self, *services: Any, alerts: AlertPolicy = ACT) -> None:
        super().__init__(*services)
        self.alerts = alerts
        self.recorded = FakeSignals(self.world)
        self.signals = self.recorded
        self.all_bad = 0.0
        self.counts: dict[tuple[str, str, str], float] = {}
        self._noted_at = 0.0

    def _serve(self) -> None:
        super()._serve()
        for table in self.traffic.table.services:
            for release, weight in table.split.weights:
                share = 0.5 if release in self.bad else self.all_bad
                for status, part in (("2xx", 1 - share), ("5xx", share)):
                    key = (table.service, release, status)
                    self.counts[key] = self.counts.get(key, 0.0) + self.load / 4 * weight / 10_000 * part
        if self.world.now() - self._noted_at >= 5.0:
            self._noted_at = self.world.now()
            for (service, release, status), count in self.counts.items():
                labels = {"service": service, "release": release, "status": status}
                self.recorded.put(GATEWAY, labels, [(self.world.time(), count)])

    def alert(self, rule: str = "errors") -> Alert | None:
        found = [alert for alert in self.plane.records.all_of(Alert) if alert.rule == rule]
        return found[-1] if found else None

    def actions(self) -> list[tuple[str, str]]:
        return [(str(a.kind), str(a.state)) for a in self.plane.records.all_of(Action)]

    def notices(self) -> list[str]:
        return [n.state for n in self.plane.records.all_of(Notice) if n.topic is Topic.ALERTS]


async def begun(rig: Recorded) -> Recorded:
    await rig.up()
    await rig.settle()
    await rig.pass_time(12)
    return rig


async def test_errors_of_what_changed_last_bring_it_back_within_ten_seconds_of_the_rule(tmp_path: Path) -> None:
    rig = await begun(Recorded())
    await rig.plane.rollouts.deploy("web", Path("v2"), "2", {}, ME)
    assert await rig.end_rollout() == "promoted"
    await rig.pass_time(60)
    rig.bad.add("2")
    began = rig.world.time()
    for _ in range(200):
        await rig.pass_time(1)
        if rig.actions():
            break
    alert, action = rig.alert(), rig.plane.records.all_of(Action)[0]
    assert alert
    assert alert.fired_at - began <= 10 + 5, "seen within a scrape, and held for 5 s"
    assert action.at - alert.fired_at <= 2
    assert await rig.end_rollout() == "promoted"
    split = rig.plane.records.split("web")
    assert split
    assert split.stable != "2"
    await rig.pass_time(150)
    resolved = rig.alert()
    assert resolved
    assert resolved.state is AlertState.RESOLVED
    assert rig.actions()[0] == ("roll back", "done")
    done = rig.plane.records.all_of(Action)[0]
    assert done.effective is True
    changes = [change for change in rig.plane.records.changes() if change.who == "gapless" and "alert 1:" in change.why]
    assert changes
    assert "bound 0.005" in changes[-1].why
    await rig.down()


async def test_unasked_it_is_only_proposed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    rig = await begun(Recorded(alerts=AlertPolicy()))
    rig.all_bad = 0.2
    with caplog.at_level(logging.INFO, "gapless.alerts"):
        await rig.pass_time(60)
    assert rig.actions() == [("roll back", "proposed"), ("break", "proposed")]
    assert rig.notices() == ["firing"]
    assert "alert 1: proposed roll back what changed last" in caplog.text
    await rig.down()


async def test_off_is_off() -> None:
    rig = await begun(Recorded(alerts=AlertPolicy(act=Mode.OFF)))
    rig.all_bad = 0.2
    await rig.pass_time(60)
    assert rig.alert()
    assert rig.actions() == []
    await rig.down()


async def test_a_kill_changes_nothing_and_says_nothing_twice() -> None:
    rig = await begun(Recorded(alerts=AlertPolicy()))
    rig.all_bad = 0.2
    await rig.pass_time(20)
    for _ in range(3):
        await rig.kill()
        await rig.up()
        await rig.pass_time(15)
    alerts = rig.plane.records.all_of(Alert)
    assert [alert.number for alert in alerts if alert.rule == "errors"] == [1]
    assert rig.notices() == ["firing"]
    rig.all_bad = 0.0
    await rig.pass_time(150)
    assert rig.notices() == ["firing", "resolved"]
    await rig.down()


async def test_a_silence_keeps_quiet_and_an_end_of_it_tells() -> None:
    rig = await begun(Recorded())
    with pytest.raises(InvalidTransition, match="without a reason"):
        await rig.plane.watching.alerts.silence("errors", "web", {}, 60.0, replace(ME, why=""))
    silence = await rig.plane.watching.alerts.silence("errors", "web", {}, 60.0, ME)
    rig.all_bad = 0.2
    await rig.pass_time(50)
    assert rig.alert()
    assert (rig.notices(), rig.actions()) == ([], [])
    assert rig.plane.watching.alerter.now()[0]["silenced"]
    await rig.plane.watching.alerts.unsilence(silence.number, ME)
    await rig.pass_time(5)
    assert rig.notices() == ["firing"]
    assert ("roll back", "refused") in rig.actions(), "nothing has changed"
    await rig.plane.watching.alerts.ack(1, ME)
    assert rig.plane.watching.alerter.now()[0]["acked_by"] == "tester"
    await rig.down()


async def test_metrics_that_cannot_be_asked_are_an_alert_of_their_own() -> None:
    rig = await begun(Recorded())
    rig.recorded.away = "it is down"
    await rig.pass_time(130)
    alert = rig.alert("unseen")
    assert alert
    assert alert.state is AlertState.FIRING
    rig.recorded.away = ""
    await rig.pass_time(40)
    alert = rig.alert("unseen")
    assert alert
    assert alert.state is AlertState.RESOLVED
    await rig.down()


async def test_load_brings_instances_and_peace_takes_them_back() -> None:
    rule = AlertRule(
        name="cpu", metric="busy", above=0.85, recover=0.7, for_s=5.0, calm_s=5.0, actions=(ActionKind.SCALE,)
    )
    rig = await begun(Recorded(alerts=replace(ACT, rules=(rule,))))

    async def busy(value: float, seconds: int) -> None:
        for _ in range(seconds):
            rig.recorded.put("busy", {"service": "web"}, [(rig.world.time(), value)])
            await rig.pass_time(1)

    await busy(0.9, 15)
    service = rig.plane.records.service("web")
    assert service
    assert (service.instances, rig.actions()) == (3, [("scale", "done")])
    await busy(0.9, 20)
    assert len(rig.actions()) == 1, "one time for one alert"
    await busy(0.3, 20)
    rig.world.stall(1_800)
    await busy(0.3, 10)
    service = rig.plane.records.service("web")
    assert service
    assert (service.instances, rig.actions()) == (2, [("scale", "undone")])
    await rig.down()


async def test_a_breaker_is_forced_open_for_a_while_where_there_is_one() -> None:
    rule = AlertRule(
        name="errors",
        metric=GATEWAY,
        where={"status": "5*"},
        per=GATEWAY,
        of="rate",
        over_s=30.0,
        above=0.05,
        actions=(ActionKind.BREAK,),
    )
    guarded = replace(WEB, protect=Protect(breaker=BreakerRule()), routes=(Route(),))
    rig = await begun(Recorded(guarded, alerts=replace(ACT, rules=(rule,))))
    rig.all_bad = 0.5
    for _ in range(60):
        await rig.pass_time(1)
        if rig.plane.records.all_of(Forced):
            break
    (table,) = rig.traffic.table.services
    (forced,) = table.forced
    assert (forced.mode, forced.guard) == ("open", "")
    await rig.pass_time(70)
    assert rig.traffic.table.services[0].forced == ()
    await rig.down()


async def test_a_test_is_told_and_over_after_a_minute_and_nothing_is_done() -> None:
    rig = await begun(Recorded())
    await rig.plane.watching.alerts.test("web", Severity.P1, {"team": "a"}, ME)
    await rig.pass_time(5)
    assert rig.notices() == ["firing"]
    await rig.pass_time(65)
    assert rig.notices() == ["firing", "resolved"]
    assert rig.actions() == []
    with pytest.raises(GaplessError, match="there is no action 7"):
        await rig.plane.watching.actor.undo_number(7, ME)
    await rig.down()


async def test_a_changed_file_is_obeyed_from_the_next_look_on() -> None:
    rig = await begun(Recorded())
    off = replace(rig.plane.system, alerts=AlertPolicy(act=Mode.OFF, off=("errors",)))
    taken, (change,) = await rig.plane.watching.take_policies(rig.plane.system, off, ME)
    assert taken.alerts == off.alerts
    assert change.what == "alerts changed in gapless.yaml"
    rig.all_bad = 0.5
    await rig.pass_time(40)
    assert (rig.alert(), rig.actions()) == (None, [])
    await rig.plane.watching.take_policies(taken, replace(off, alerts=ACT), ME)
    await rig.pass_time(20)
    assert rig.alert()
    await rig.down()


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0, 20.0, -20.0])
async def test_a_clock_that_jumps_neither_ends_an_alert_nor_tells_it_again_nor_repeats_what_was_done(
    jump_s: float,
) -> None:
    rig = await begun(Recorded(alerts=AlertPolicy()))
    rig.all_bad = 0.2
    await rig.pass_time(30)
    assert (rig.notices(), len(rig.plane.watching.incidents.all())) == (["firing"], 1)
    done = rig.actions()
    rig.world.jump(jump_s)
    await rig.pass_time(60)
    assert (rig.notices(), rig.actions()) == (["firing"], done)
    [shown] = [alert for alert in rig.plane.watching.alerter.now() if alert["rule"] == "errors"]
    assert shown["state"] == "firing"
    assert [one["state"] for one in rig.plane.watching.incidents.all()] == ["open"]
    rig.all_bad = 0.0
    await rig.pass_time(150)
    assert rig.notices() == ["firing", "resolved"]
    await rig.down()


async def test_beyond_a_thousand_nothing_is_begun_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alerter, "MOST_LIVE", 20)
    rule = AlertRule(name="depth", severity=Severity.P3, metric="depth", by=("queue",), above=1.0)
    rig = await begun(Recorded(alerts=AlertPolicy(defaults=False, rules=(rule,))))
    for n in range(30):
        rig.recorded.put(
            "depth", {"service": "web", "queue": f"q{n}"}, [(rig.world.time() + s, 5.0) for s in range(90)]
        )
    await rig.pass_time(30)
    assert len(rig.plane.watching.alerter.now()) == 20
    assert caplog.text.count("20 alerts are live, and no more are begun (10 would be)") == 1
    await rig.down()
