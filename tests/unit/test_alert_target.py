"""What goes back because of an alert: what is clearly to blame, or else the newest change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.model.alert import Action, ActionKind, Alert, AlertState, Severity
from gapless.core.model.incident import Incident, Suspect
from gapless.observe.alert_target import CLEAR, Target, choice, clear, undecided
from tests.unit.control_kit import ME, WEB
from tests.unit.test_alerter import Recorded, begun

CONFIG = Target(kind="config", service="web", at=900.0, what="configuration of web, revision 3")
ROLLOUT = Target(kind="rollout", service="pay", at=800.0, what="rollout 7 of pay (1 → 2)")
TARGETS = (CONFIG, ROLLOUT)


def suspect(target: Target, probability: float, *, measured: float = 2.0, more: str = "") -> Suspect:
    return Suspect(
        kind=target.kind,
        number=1,
        service=target.service,
        at=target.at,
        what=target.what + more,
        probability=probability,
        evidence=("errors of pay rose at that moment",),
        numbers={"time": 3.0, "effect": measured, "split": 0.0},
    )


def incident(*suspects: Suspect) -> Incident:
    return Incident(number=4, opened_at=950.0, title="", suspects=suspects, blamed_at=951.0)


@pytest.mark.parametrize(
    ("suspects", "goes_back", "reason"),
    [
        (
            (suspect(ROLLOUT, 0.8), suspect(CONFIG, 0.1)),
            ROLLOUT,
            "the first suspect of incident 4 (80%): errors of pay",
        ),
        ((suspect(CONFIG, 0.9, more=": timeout 1 → 2"),), CONFIG, "the first suspect of incident 4 (90%)"),
        ((suspect(ROLLOUT, 0.5), suspect(CONFIG, 0.3)), CONFIG, "the newest change"),
        ((suspect(ROLLOUT, 0.6), suspect(CONFIG, 0.35)), CONFIG, "the newest change"),
        ((suspect(ROLLOUT, 0.9, measured=0.0),), CONFIG, "the newest change"),
        ((), CONFIG, "the newest change"),
        (
            (suspect(Target(kind="experiment", service="web", at=1.0, what="experiment 2"), 0.9),),
            None,
            "experiment 2 is the first suspect of incident 4 (90%), and cannot be rolled back",
        ),
    ],
)
def test_a_clear_suspect_goes_back_and_else_the_newest(
    suspects: tuple[Suspect, ...], goes_back: Target | None, reason: str
) -> None:
    found = choice(TARGETS, incident(*suspects))
    assert found.target == goes_back
    assert found.reason.startswith(reason)


def test_names_that_begin_alike_are_not_the_same() -> None:
    later = suspect(replace(CONFIG, what="configuration of web, revision 31"), 0.9, more=": x")
    assert choice(TARGETS, incident(later)).target is None
    assert choice(TARGETS, None).target == CONFIG
    assert choice((), None).target is None
    assert choice((), None).reason == ""


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_who_is_clear_is_the_first_and_likelier_than_all_others_together(weights: list[float]) -> None:
    total = sum(weights) + 0.01
    ranked = sorted((weight / total for weight in weights), reverse=True)
    found = clear([suspect(ROLLOUT, probability) for probability in ranked])
    if found is not None:
        assert found.probability == ranked[0] >= CLEAR > 0.5
        assert found.probability > sum(ranked[1:])


def test_a_moment_is_given_to_an_incident_that_is_not_weighed_yet_where_there_is_a_choice() -> None:
    alert = Alert(
        number=1, key="errors/web", rule="errors", severity=Severity.P1, state=AlertState.FIRING, fired_at=1_000.0
    )
    blank = replace(incident(), blamed_at=0.0)
    assert undecided(TARGETS, alert, None, 1_001.0)
    assert undecided(TARGETS, alert, blank, 1_001.0)
    assert not undecided(TARGETS, alert, incident(), 1_001.0)
    assert not undecided(TARGETS[:1], alert, None, 1_001.0)
    assert not undecided(TARGETS, alert, None, 1_006.0)
    assert not undecided(TARGETS, alert, None, 900.0), "a clock that was set back holds nothing up"
    assert not undecided(TARGETS, replace(alert, severity=Severity.P2), None, 1_001.0), "it opens no incident"


async def test_the_release_that_broke_it_goes_back_although_another_change_came_after_it(tmp_path: Path) -> None:
    rig = await begun(Recorded(replace(WEB, needs=("pay",)), replace(WEB, name="pay", routes=())))
    await rig.pass_time(60)
    await rig.plane.rollouts.deploy("web", Path("v2"), "2", {}, ME)
    assert await rig.end_rollout() == "promoted"
    rig.bad.add("2")
    await rig.plane.rollouts.deploy("pay", Path("v2"), "p2", {}, ME)
    for _ in range(120):
        await rig.pass_time(1)
        if any(action.ended_at for action in rig.plane.records.all_of(Action)):
            break
    [action] = [each for each in rig.plane.records.all_of(Action) if each.kind is ActionKind.ROLL_BACK]
    assert action.what.startswith("roll back rollout 1 of web (")
    assert "first suspect of incident 1" in action.detail
    assert {change.service for change in rig.plane.records.changes() if "first suspect" in change.why} == {"web"}
    await rig.down()
