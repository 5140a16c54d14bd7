"""Incidents: which alerts are one, which change is to blame, what the report says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.model.alert import Alert, AlertState, Severity
from gapless.core.model.incident import Incident
from gapless.core.model.notice import Notice
from gapless.observe.incident_blame import Candidate, Scene, Side, Symptom, blame, reached
from gapless.observe.incident_fit import fit_rise
from gapless.observe.incident_group import CALM_S, grouped
from gapless.observe.incident_report import post_mortem, timeline
from gapless.testing.incidents import FAULTS, made
from tests.unit.control_kit import ME
from tests.unit.test_alerter import Recorded, begun

NEEDS = {"web": ("orders",), "orders": ("pay",), "pay": (), "mail": ()}


# Fits.


def noisy(n: int) -> float:
    return 0.05 * math.sin(n * 12.9898) * math.cos(n * 78.233)


@pytest.mark.parametrize("onset", [20, 60, 100])
def test_a_step_and_a_bend_are_found_where_they_are(onset: int) -> None:
    step = fit_rise([(n * 15.0, (1.0 if n >= onset else 0.0) + noisy(n)) for n in range(120)])
    assert step.changed
    assert abs(step.onset_at - onset * 15.0) <= 15.0
    bend = fit_rise([(n * 15.0, max(n - onset, 0) * 0.05 + noisy(n)) for n in range(120)])
    assert bend.changed
    assert abs(bend.onset_at - onset * 15.0) <= 6 * 15.0
    assert step.near(onset * 15.0 - 30, onset * 15.0 + 30) == 0.0
    assert step.near(-500.0, -400.0) == -math.inf


@given(st.lists(st.floats(-10, 10), max_size=60))
def test_what_falls_or_is_short_or_flat_has_not_risen(values: list[float]) -> None:
    falling = fit_rise([(n * 1.0, -float(n)) for n in range(40)])
    assert not falling.changed
    found = fit_rise([(n * 1.0, value) for n, value in enumerate(values)])
    assert all(fit <= 1e-9 for fit in found.relative)
    assert not fit_rise([(n * 1.0, 3.0) for n in range(len(values))]).changed


# Blame.


def test_the_culprit_comes_first_in_nearly_all_incidents() -> None:
    """A sample; `benchmarks/blame.py` does hundreds."""
    cases = [made(seed) for seed in range(9_000, 9_000 + 2 * len(FAULTS))]
    hits = [blame(case.scene, case.candidates)[0].number == case.culprit for case in cases]
    assert len({case.fault for case in cases}) == len(FAULTS)
    assert sum(hits) >= len(cases) - 1


def test_the_probabilities_leave_something_to_what_nobody_changed() -> None:
    case = made(9_000)
    suspects = blame(case.scene, case.candidates)
    total = sum(suspect.probability for suspect in suspects)
    assert 0.9 < total < 1.0
    assert suspects[0].evidence
    assert [s.probability for s in suspects] == sorted((s.probability for s in suspects), reverse=True)
    assert blame(case.scene, []) == ()
    lone = blame(
        case.scene, [replace(case.candidates[0], at=case.scene.since_at + 600, moments=(), kind="scale", newcomer="")]
    )
    assert lone[0].probability < 0.1, "what came afterwards is not to blame, even when it is alone"


def flat(service: str, rise_at: float = 0.0, high: float = 0.2) -> Symptom:
    points = tuple(
        (n * 15.0, (high if rise_at and n * 15.0 >= rise_at else 0.001) + noisy(n) / 100 + 0.0006) for n in range(120)
    )
    return Symptom(service=service, kind="share", name="errors", points=points)


def scene(**more: Any) -> Scene:
    given: dict[str, Any] = {"alerted": ("orders",), "since_at": 1_210.0, "needs": NEEDS}
    given["symptoms"] = (flat("orders", 1_200.0), flat("pay"), flat("web"), flat("mail"))
    return Scene(**{**given, **more})


def change(number: int, service: str, at: float, **more: Any) -> Candidate:
    return Candidate(**{"kind": "config", "number": number, "service": service, "at": at, "what": f"c{number}", **more})


def first(found: Scene, *candidates: Candidate) -> int:
    return blame(found, candidates)[0].number


def test_time_place_and_effect() -> None:
    assert first(scene(), change(1, "orders", 1_190.0), change(2, "orders", 300.0)) == 1
    assert first(scene(), change(1, "orders", 1_190.0), change(2, "mail", 1_195.0)) == 1
    assert first(scene(), change(1, "orders", 1_190.0), change(2, "orders", 1_400.0)) == 1
    both = (flat("orders", 1_200.0), flat("pay", 1_190.0), flat("web"), flat("mail"))
    assert first(scene(symptoms=both), change(1, "pay", 1_180.0), change(2, "orders", 1_185.0)) == 1


def test_releases_side_by_side() -> None:
    def sides(new: float, old: float) -> list[Side]:
        return [
            Side(at=1_200.0 + 15 * n, new_requests=50, new_errors=50 * new, old_requests=450, old_errors=450 * old)
            for n in range(10)
        ]

    guilty = change(1, "orders", 1_195.0, kind="rollout", newcomer="2", stable="1", share=0.1)
    other = change(2, "orders", 1_197.0)
    assert first(scene(sides={("orders", "2"): sides(0.5, 0.001)}), guilty, other) == 1
    assert first(scene(sides={("orders", "2"): sides(0.2, 0.2)}), guilty, other) == 2


def test_a_tenth_of_the_users_cannot_fail_half_of_the_requests() -> None:
    much = scene(symptoms=(flat("orders", 1_200.0, high=0.5),))
    small = change(1, "orders", 1_195.0, kind="rollout", share=0.1)
    assert first(much, small, change(2, "orders", 1_190.0)) == 2


def test_what_is_reached() -> None:
    assert reached("web", NEEDS) == {"web": 0, "orders": 1, "pay": 2}
    assert reached("a", {"a": ("b",), "b": ("a",)}) == {"a": 0, "b": 1}


# Groups.


def alert(number: int, service: str, severity: Severity = Severity.P1, **more: Any) -> Alert:
    given: dict[str, Any] = {"state": AlertState.FIRING, "fired_at": 100.0, "since_at": 90.0, "summary": f"{service}!"}
    return Alert(
        **{"number": number, "key": str(number), "rule": "r", "service": service, "severity": severity, **given, **more}
    )


def test_near_alerts_are_one_incident_far_ones_are_another_and_small_ones_open_none() -> None:
    small = alert(1, "pay", Severity.P2)
    assert grouped([], [small], NEEDS, 1, 100.0) == []
    (one,) = grouped([], [small, alert(2, "orders"), alert(3, "web", Severity.P0)], NEEDS, 1, 100.0)
    assert (set(one.alerts), one.severity, one.title) == ({1, 2, 3}, Severity.P0, "web!")
    assert [each.services for each in grouped([], [alert(1, "orders"), alert(2, "mail")], NEEDS, 1, 100.0)] == [
        ("orders",),
        ("mail",),
    ]


def test_it_is_closed_when_all_is_quiet_and_what_comes_back_at_once_belongs_to_it() -> None:
    (one,) = grouped([], [alert(1, "orders")], NEEDS, 1, 100.0)
    over = alert(1, "orders", state=AlertState.RESOLVED)
    (calm,) = grouped([one], [over], NEEDS, 2, 200.0)
    assert (calm.state, calm.calm_at) == ("open", 200.0)
    (again,) = grouped([calm], [over, alert(2, "orders")], NEEDS, 2, 210.0)
    assert (again.alerts, again.calm_at) == ((1, 2), 0.0)
    (closed,) = grouped([calm], [over], NEEDS, 2, 200.0 + CALM_S)
    assert (closed.state, closed.closed_at) == ("closed", 200.0 + CALM_S)


SERVICES = st.sampled_from(list(NEEDS))


@given(st.lists(st.tuples(SERVICES, st.sampled_from(list(Severity)), st.booleans()), max_size=25))
def test_each_alert_is_in_one_incident_at_most_and_grouping_again_changes_nothing(rows: Any) -> None:
    alerts = [
        alert(n, service, severity, state=AlertState.FIRING if firing else AlertState.RESOLVED)
        for n, (service, severity, firing) in enumerate(rows, 1)
    ]
    found = grouped([], alerts, NEEDS, 1, 100.0)
    members = [number for incident in found for number in incident.alerts]
    assert len(members) == len(set(members))
    serious = {a.number for a in alerts if a.state is AlertState.FIRING and a.severity in (Severity.P0, Severity.P1)}
    assert serious <= set(members)
    assert grouped(found, alerts, NEEDS, 99, 100.0) == found


# Reports.


def test_a_post_mortem_is_whole_also_when_little_is_known() -> None:
    bare = Incident(number=1, opened_at=100.0, title="a | b\nc", alerts=(1,))
    entries = timeline(bare, [alert(1, "orders", summary="x | y\nz")], [], [], 200.0)
    text = post_mortem(bare, entries, [], "shop")
    assert "x \\| y z" in text
    assert "Nothing has changed shortly before" in text
    assert "- [ ] " in text


# The loop.


async def test_a_bad_release_among_other_changes_is_blamed_and_the_incident_closes() -> None:
    rig = await begun(Recorded())
    await rig.plane.commands.scale("web", 3, ME)
    await rig.pass_time(30)
    await rig.plane.rollouts.deploy("web", Path("v2"), "2", {}, ME)
    assert await rig.end_rollout() == "promoted"
    rig.bad.add("2")
    await rig.pass_time(60)
    (incident,) = rig.plane.records.all_of(Incident)
    assert incident.suspects[0].kind == "rollout"
    assert incident.impact["errors"] > 10
    await rig.end_rollout()
    await rig.kill()
    await rig.up()
    await rig.pass_time(200)
    (incident,) = rig.plane.records.all_of(Incident)
    assert incident.state == "closed"
    states = [n.state for n in rig.plane.records.all_of(Notice) if n.topic == "incidents"]
    assert states == ["opened", "closed"]
    one = rig.plane.watching.incidents.one(incident.number)
    kinds = {entry["kind"] for entry in one["timeline"]}
    assert {"alert", "action", "rollout", "incident"} <= kinds
    assert "## Suspected cause" in rig.plane.watching.incidents.export(incident.number)
    await rig.down()
