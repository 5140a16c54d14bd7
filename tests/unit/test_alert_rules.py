"""Alerts as pure functions: what readings mean, what becomes of alerts, what is done, and what is told."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.configured import Config, ConfigRevision
from gapless.core.model import Objective, Rollout, RolloutPolicy, RolloutState, Route, Service
from gapless.core.model.alert import (
    Action,
    ActionKind,
    ActionState,
    Alert,
    AlertPolicy,
    AlertRule,
    AlertState,
    Mode,
    Severity,
    Silence,
)
from gapless.observe import alert_actions, alert_notices, alert_state, alert_target
from gapless.observe.alert_defaults import HELD_S, Watch, built_in, burn_windows, down_of, mode_of, watches
from gapless.observe.alert_reading import MOST_SERIES, Reading, by_service, key_of, questions, read
from gapless.observe.alertmanager import ENDED_FOR_S, postable
from gapless.testing import FakeWorld
from gapless.testing.signals import FakeSignals

WEB = Service(name="web", app="web:app", routes=(Route(),))
ERRORS = AlertRule(
    name="errors",
    metric="r_total",
    where={"status": "5*"},
    per="r_total",
    of="rate",
    over_s=60.0,
    above=0.005,
    for_s=10.0,
    calm_s=30.0,
)


async def look(rule: AlertRule, signals: FakeSignals, **more: Any) -> list[Reading]:
    watch = Watch(rule=rule, service="web" if rule.each_service else "", **more)
    asked = questions(watch)
    answers = {key_of(each): by_service(await signals.latest(each)) for each in asked.all()}
    return list(read(watch, asked, answers).rows)


def requests(per_s: dict[str, float], service: str = "web") -> FakeSignals:
    signals = FakeSignals(FakeWorld())
    for status, rate in per_s.items():
        signals.put_steady("r_total", {"service": service, "release": "1", "status": status}, rate)
    return signals


# Reading.


async def test_a_share_of_errors_is_over_its_bound_only_when_that_is_sure() -> None:
    (many,) = await look(ERRORS, requests({"200": 95.0, "500": 3.0, "503": 2.0}))
    assert many.holds
    assert many.value == pytest.approx(0.05, rel=0.01)
    (few,) = await look(ERRORS, requests({"200": 1.0, "500": 1 / 60}))
    assert few.value == pytest.approx(1 / 61, rel=0.05)
    assert not few.holds, "one error in sixty requests is no error rate"
    (none,) = await look(ERRORS, requests({"200": 10.0}))
    assert (none.value, none.holds, none.calm) == (0.0, False, True)


async def test_no_requests_and_other_services_requests_say_nothing() -> None:
    assert await look(ERRORS, requests({})) == []
    assert await look(ERRORS, requests({"500": 5.0}, service="other")) == []


async def test_both_windows_must_burn() -> None:
    signals = requests({"200": 100.0})
    now = signals.world.time()
    signals.put("r_total", {"service": "web", "status": "500"}, [(now - 3600 + n * 5, n * 25.0) for n in range(600)])
    signals.put("r_total", {"service": "web", "status": "500"}, [(now - 600 + n * 5, 15_000.0) for n in range(121)])
    burn = replace(ERRORS, over_s=3600.0, short_s=300.0, above=0.01)
    (over,) = await look(burn, signals)
    assert not over.holds, "it has ended ten minutes ago"
    assert over.calm
    (long,) = await look(replace(burn, short_s=0.0), signals)
    assert long.holds


async def test_below_what_is_usual() -> None:
    signals = FakeSignals(FakeWorld())
    now = signals.world.time()
    signals.put_steady("made_total", {"service": "web"}, 10.0)
    paid = [(now - 3600 + n * 5, n * 45.0) for n in range(661)]
    signals.put(
        "paid_total", {"service": "web"}, [*paid, *[(now - 300 + n * 5, 660 * 45.0 + n * 10) for n in range(1, 61)]]
    )
    rule = AlertRule(name="b", metric="paid_total", per="made_total", of="rate", over_s=300.0, past_s=3600.0, below=0.8)
    (row,) = await look(rule, signals)
    assert row.holds
    assert row.value == pytest.approx(0.2 / 0.84, rel=0.1)


async def test_absence_is_what_was_there_and_is_no_more() -> None:
    rule = AlertRule(name="silent", metric="up", absent_s=60.0)
    signals = FakeSignals(FakeWorld())
    assert await look(rule, signals) == []
    signals.put("up", {"service": "web"}, [(signals.world.time() - 100, 1.0)])
    (gone,) = await look(rule, signals)
    assert gone.holds
    signals.put("up", {"service": "web"}, [(signals.world.time() - 5, 1.0)])
    (back,) = await look(rule, signals)
    assert back.calm


async def test_no_ready_instance_is_down_also_when_nobody_counts_one() -> None:
    signals = FakeSignals(FakeWorld())
    rule = down_of(replace(WEB, start_s=40.0))
    assert rule.for_s == 40.0
    assert await look(rule, signals) == []
    signals.put_gauge("gapless_instances_wanted", {"service": "web"}, 2.0, since_s=60)
    signals.put_gauge("gapless_instances", {"service": "web", "phase": "starting"}, 2.0, since_s=60)
    (none,) = await look(rule, signals)
    assert none.holds
    signals.put_gauge("gapless_instances", {"service": "web", "phase": "ready", "release": "1"}, 1.0, since_s=10)
    (one,) = await look(rule, signals)
    assert (one.holds, one.calm, one.value) == (False, True, 0.5)


async def test_labels_that_explode_are_cut_to_the_worst() -> None:
    signals = FakeSignals(FakeWorld())
    for n in range(MOST_SERIES + 30):
        signals.put_gauge("depth", {"service": "web", "queue": f"q{n}"}, float(n), since_s=30)
    rule = AlertRule(name="deep", metric="depth", by=("queue",), above=10.0)
    rows = await look(rule, signals)
    assert len(rows) == MOST_SERIES
    assert rows[0].labels == {"queue": f"q{MOST_SERIES + 29}"}


async def test_a_quantile_and_hysteresis() -> None:
    signals = FakeSignals(FakeWorld())
    now = signals.world.time()
    points = [(now - 60 + n * 5, {0.1: n * 9.0, 1.0: n * 10.0, math.inf: n * 10.0}, n * 1.0) for n in range(13)]
    signals.put_histogram("took", {"service": "web"}, points)
    slow = AlertRule(name="slow", metric="took", of="quantile", above=0.5, recover=0.3)
    (row,) = await look(slow, signals)
    assert (row.holds, row.calm) == (True, False)
    between = replace(slow, above=1.5, recover=0.3)
    (row,) = await look(between, signals)
    assert (row.holds, row.calm) == (False, False)


# States.

WATCH = Watch(rule=ERRORS, service="web")
BAD, GOOD = Reading(value=0.1, bound=0.005, holds=True), Reading(value=0.0, bound=0.005, calm=True)


def run(readings: list[Reading | None], step_s: float = 2.0, alert: Alert | None = None, at: float = 1_000.0) -> Any:
    for n, reading in enumerate(readings):
        alert = alert_state.advance(alert, None, WATCH, reading, at + n * step_s, 1)
    return alert


def test_it_fires_after_its_time_and_is_over_after_calm() -> None:
    assert run([BAD]).state is AlertState.PENDING
    assert run([BAD, GOOD]) is None
    firing = run([BAD] * 6)
    assert (firing.state, firing.since_at, firing.fired_at) == (AlertState.FIRING, 1_000.0, 1_010.0)
    assert "errors is 0.1" in firing.summary
    assert run([GOOD] * 15, alert=firing, at=1_012.0).state is AlertState.FIRING
    assert run([GOOD] * 16, alert=firing, at=1_012.0).state is AlertState.RESOLVED


def test_no_data_is_not_good_news() -> None:
    firing = run([BAD] * 6)
    blind = run([None] * 500, alert=firing, at=1_012.0)
    assert blind.state is AlertState.FIRING
    assert blind.blind_at == 1_012.0
    assert run([GOOD, GOOD, None] * 100, alert=firing, at=1_012.0).state is AlertState.FIRING
    assert run([BAD, None, None]).state is AlertState.PENDING


def test_time_that_nobody_looked_at_and_clocks_that_were_moved_do_not_count() -> None:
    pending = run([BAD])
    for jump_s in (3_600.0, -3_600.0):
        after = alert_state.advance(pending, None, WATCH, BAD, 1_000.0 + jump_s, 1)
        assert after
        assert (after.state, after.since_at) == (AlertState.PENDING, 1_000.0 + jump_s)


def test_what_comes_back_at_once_must_be_over_for_longer() -> None:
    first = replace(run([BAD] * 6), state=AlertState.RESOLVED, resolved_at=1_100.0)
    again = alert_state.advance(None, first, WATCH, BAD, 1_200.0, 2)
    assert again
    assert again.flaps == 1
    assert alert_state.calm_needed_s(ERRORS, 1) == 2 * ERRORS.calm_s
    much_later = alert_state.advance(None, first, WATCH, BAD, 1_100.0 + alert_state.FLAP_S, 2)
    assert much_later
    assert much_later.flaps == 0


@given(st.lists(st.sampled_from([BAD, GOOD, None]), max_size=60), st.floats(0.5, 5.0))
def test_it_fires_only_after_it_has_held_for_long_enough_and_ends_only_after_calm(
    readings: list[Reading | None], step_s: float
) -> None:
    alert, held_s, calm_s = None, 0.0, 0.0
    for n, reading in enumerate(readings):
        before, alert = alert, alert_state.advance(alert, None, WATCH, reading, 1_000.0 + n * step_s, 1)
        state = alert.state if alert else None
        if state is AlertState.FIRING and (before is None or before.state is AlertState.PENDING):
            assert held_s >= ERRORS.for_s - 1e-6
        if state is AlertState.RESOLVED:
            assert calm_s >= ERRORS.calm_s - 1e-6
            return
        held_s = held_s + step_s if reading is BAD or (reading is None and before) else 0.0
        calm_s = calm_s + step_s if reading is GOOD else 0.0


@pytest.mark.parametrize(
    "text", ["{service}: {value:.1%} of {nobody}", "{value:x}", "{0}", "{service.x}", "{", "plain"]
)
def test_no_summary_costs_the_alert(text: str) -> None:
    alert = Alert(number=1, key="k", rule="errors", service="web", value=0.25, bound=0.1)
    said = alert_state.summary_of(replace(ERRORS, summary=text), alert)
    assert said
    if text.startswith("{service}:"):
        assert said == "web: 25.0% of {nobody}"


def test_silences_match_by_what_they_name_and_end() -> None:
    alert = Alert(number=1, key="k", rule="cpu", service="web", labels={"team": "a"})
    silence = Silence(number=1, rule="cpu", labels={"team": "a"}, since_at=0.0, until_at=10.0)
    assert alert_state.silenced(alert, [silence], 5.0)
    assert not alert_state.silenced(alert, [silence], 10.0)
    assert not alert_state.silenced(alert, [replace(silence, service="shop")], 5.0)
    assert not alert_state.silenced(alert, [replace(silence, labels={"team": "b"})], 5.0)


# Defaults.


def test_the_built_in_rules_are_those_of_the_documentation() -> None:
    names = {watch.rule.name for watch in built_in(replace(WEB, objective=Objective()), 4)}
    assert {"down", "errors", "cpu", "silent"} <= names
    with_objective = replace(WEB, objective=Objective(availability=0.999, p99_s=0.3))
    names = {watch.rule.name for watch in built_in(with_objective, 4)}
    assert {"burn-fast", "burn-slow", "burn-drift", "slow"} <= names


def test_burn_windows_fit_what_is_recorded() -> None:
    rows = {name: (long_s, short_s) for name, _, long_s, short_s, _ in burn_windows(HELD_S)}
    assert rows == {"fast": (3_600.0, 300.0), "slow": (21_600.0, 1_800.0), "drift": (86_400.0, 7_200.0)}


def test_a_rule_of_the_file_takes_the_place_of_the_built_in_one_and_off_is_off() -> None:
    policy = AlertPolicy(rules=(replace(ERRORS, services=("web",)),), off=("cpu",))
    found = watches(policy, [WEB], 4)
    assert [watch.rule for watch in found if watch.rule.name == "errors"] == [replace(ERRORS, services=("web",))]
    assert "cpu" not in {watch.rule.name for watch in found}
    assert [w.rule.name for w in watches(replace(policy, defaults=False), [WEB], 4)] == ["errors"]


def test_breakers_are_opened_unasked_only_by_rules_of_the_file() -> None:
    act = AlertPolicy(act=Mode.ACT)
    assert mode_of(ERRORS, ActionKind.BREAK, act) is Mode.PROPOSE
    assert mode_of(ERRORS, ActionKind.ROLL_BACK, act) is Mode.ACT
    assert mode_of(ERRORS, ActionKind.BREAK, replace(act, rules=(ERRORS,))) is Mode.ACT
    assert mode_of(ERRORS, ActionKind.SCALE, AlertPolicy()) is Mode.PROPOSE


# Actions.

FIRING = Alert(number=1, key="k", rule="errors", service="web", state=AlertState.FIRING, fired_at=990.0, since_at=980.0)
POLICY = AlertPolicy(act=Mode.ACT)


def action(number: int, at: float, **more: Any) -> Action:
    given: dict[str, Any] = {"alert": 90 + number, "kind": ActionKind.SCALE, "state": ActionState.DONE}
    return Action(**{"number": number, "service": "web", "what": "x", "at": at, **given, **more})


@pytest.mark.parametrize(
    ("actions", "mode", "state"),
    [
        ([], Mode.ACT, ActionState.BEGUN),
        ([], Mode.PROPOSE, ActionState.PROPOSED),
        ([], Mode.OFF, None),
        ([action(1, 100.0, alert=1, kind=ActionKind.ROLL_BACK)], Mode.ACT, None),
        ([action(1, 900.0, state=ActionState.BEGUN)], Mode.ACT, None),
        ([action(1, 900.0)], Mode.ACT, None),
        ([action(1, 600.0)], Mode.ACT, ActionState.BEGUN),
        ([action(1, 900.0, service="other")], Mode.ACT, ActionState.BEGUN),
        ([action(n, 100.0 + n) for n in range(3)], Mode.ACT, ActionState.REFUSED),
        ([action(1, 600.0, kind=ActionKind.ROLL_BACK, effective=False)], Mode.ACT, ActionState.REFUSED),
    ],
)
def test_limits(actions: list[Action], mode: Mode, state: ActionState | None) -> None:
    found = alert_actions.ruling(FIRING, ActionKind.ROLL_BACK, mode, actions, POLICY, 1_000.0)
    assert found.state is state


@given(st.lists(st.tuples(st.floats(0, 400), st.sampled_from(list(ActionKind))), max_size=60))
def test_never_two_at_once_never_too_many_never_too_soon(looks: list[tuple[float, ActionKind]]) -> None:
    actions: list[Action] = []
    now_at = 0.0
    for number, (pause_s, kind) in enumerate(looks):
        now_at += pause_s
        alert = replace(FIRING, number=number)
        found = alert_actions.ruling(alert, kind, Mode.ACT, actions, POLICY, now_at)
        if found.state is ActionState.BEGUN:
            actions.append(action(number, now_at, alert=number, kind=kind))
    times = [each.at for each in actions]
    assert all(later - one >= POLICY.cooldown_s for one, later in pairwise(times))
    assert all(sum(at <= other < at + POLICY.within_s for other in times) <= POLICY.most for at in times)


def rollout(service: str, at: float, **more: Any) -> Rollout:
    given: dict[str, Any] = {"state": RolloutState.PROMOTED, "winner": "2", "decided_at": at}
    return Rollout(
        **{
            "number": 1,
            "service": service,
            "before": "1",
            "after": "2",
            "policy": RolloutPolicy(),
            "instances": 2,
            **given,
            **more,
        }
    )


def test_what_changed_last_goes_back_if_it_changed_lately() -> None:
    config = (Config(service="web", current=3), ConfigRevision(service="web", number=3, at=950.0))
    first = (Config(service="web", current=1), ConfigRevision(service="web", number=1, at=950.0))
    back = (Config(service="web", current=4), ConfigRevision(service="web", number=4, at=960.0, label="as revision 2"))

    def last(rollouts: list[Rollout], configs: Any = ()) -> str:
        found = alert_target.targets_of(["web", "pay"], rollouts, configs, 1_000.0, 3_600.0)
        return f"{found[0].kind} {found[0].service}" if found else ""

    assert last([rollout("web", 900.0)]) == "rollout web"
    assert last([rollout("web", 900.0)], [config]) == "config web"
    assert last([rollout("web", 900.0)], [first]) == "rollout web"
    assert last([rollout("web", 900.0)], [back]) == "rollout web", "what went back does not go forward again"
    assert last([rollout("pay", 970.0)], [config]) == "rollout pay"
    assert last([rollout("other", 970.0)]) == ""
    assert last([rollout("web", -9_000.0)]) == ""
    going = rollout("web", 0.0, state=RolloutState.SHIFTING, winner="", started_at=800.0, shifted_at=990.0)
    assert last([going], [config]) == "rollout under way web"
    assert last([replace(going, winner="1")]) == "", "it goes back already"
    assert last([rollout("web", 900.0, state=RolloutState.ROLLED_BACK)]) == ""


def test_instances_grow_up_to_a_bound_and_never_shrink() -> None:
    assert alert_actions.more_instances(replace(WEB, instances=2), POLICY) == 3
    assert alert_actions.more_instances(replace(WEB, instances=3, declared=2), POLICY) == 4
    assert alert_actions.more_instances(replace(WEB, instances=4, declared=2), POLICY) == 4
    assert alert_actions.more_instances(replace(WEB, instances=9, declared=2), POLICY) == 9


def test_whether_it_helped_and_when_it_is_taken_back() -> None:
    done = action(1, 1_000.0, undo={"from": "2", "to": "3"})
    over = replace(FIRING, state=AlertState.RESOLVED, resolved_at=1_100.0)
    assert alert_actions.judged(done, over, 1_100.0).effective is True
    assert alert_actions.judged(done, FIRING, 1_100.0).effective is None
    assert alert_actions.judged(done, FIRING, 1_700.0).effective is False
    assert not alert_actions.to_undo(done, over, 1_200.0)
    assert alert_actions.to_undo(done, over, 1_100.0 + alert_actions.SCALED_S)
    assert alert_actions.to_undo(replace(done, kind=ActionKind.BREAK), over, 1_101.0)
    assert not alert_actions.to_undo(replace(done, undo={}), over, 9_000.0)
    begun = replace(done, state=ActionState.BEGUN)
    assert alert_actions.abandoned(begun, 1_300.0).state is ActionState.FAILED
    assert alert_actions.abandoned(begun, 1_010.0) is begun


# Telling.


def test_people_are_told_once_paged_until_somebody_comes_and_told_the_end() -> None:
    rule = replace(ERRORS, actions=(ActionKind.PAGE,))
    alert, told = FIRING, []
    for minute in range(120):
        alert, what = alert_notices.tell(alert, rule, Mode.PROPOSE, minute < 2, 1_000.0 + 60 * minute)
        told += [(minute, what)] if what else []
    assert told[:3] == [(2, "firing"), (7, "page"), (12, "page")]
    assert len(told) == 1 + alert_notices.MOST_PAGES
    acked = replace(FIRING, told=True, acked_by="ann")
    assert alert_notices.tell(acked, rule, Mode.ACT, False, 9_000.0)[1] == ""
    over = replace(acked, state=AlertState.RESOLVED)
    assert alert_notices.tell(over, rule, Mode.ACT, False, 9_000.0)[1] == "resolved"
    assert alert_notices.tell(replace(over, told=False), rule, Mode.ACT, False, 9_000.0)[1] == ""


def test_alertmanager_is_told_what_fires_and_for_a_while_what_has_ended() -> None:
    over = replace(FIRING, number=2, state=AlertState.RESOLVED, resolved_at=1_000.0, severity=Severity.P0)
    pending = replace(FIRING, number=3, state=AlertState.PENDING)
    quiet = replace(FIRING, number=4, rule="cpu")
    silence = Silence(number=1, rule="cpu", since_at=0.0, until_at=1e9)
    found = postable([FIRING, over, pending, quiet], [silence], "shop", 1_010.0)
    assert [each["annotations"]["number"] for each in found] == ["1", "2"]
    assert found[0]["labels"] == {"alertname": "errors", "system": "shop", "service": "web", "severity": "P2"}
    assert found[0]["endsAt"] > found[0]["startsAt"]
    assert postable([over], [], "shop", 1_000.0 + ENDED_FOR_S) == []
