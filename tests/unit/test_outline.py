"""The dry run tells what the deciders do: compared with the plan, and in words."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.cli.outline import span, told
from gapless.control.status import outline_status
from gapless.core.model import (
    BUCKETS,
    Calendar,
    Freeze,
    Gate,
    JudgedBy,
    Objective,
    Rollout,
    RolloutPolicy,
    RolloutState,
    StepRule,
    Strategy,
)
from gapless.rollout.outline import Outline, Part, outline
from gapless.rollout.plan import plan_for

AT = 1_000_000.0


def part(service: str = "orders", rate: float = 100.0, train: str = "", **policy: object) -> Part:
    rollout = Rollout(
        number=1,
        service=service,
        before="1.0",
        after="1.1",
        policy=RolloutPolicy(**policy),  # type: ignore[arg-type]
        instances=4,
        started_at=AT,
        since_at=AT,
        train=train,
    )
    return Part(rollout=rollout, objective=Objective(), rate=rate)


def whats(found: Outline) -> list[str]:
    return [happening.what for happening in found.happenings]


@settings(deadline=None)
@given(
    strategy=st.sampled_from(Strategy),
    steps=st.sets(st.integers(1, BUCKETS - 1), max_size=3),
    hold_s=st.integers(0, 600),
    rate=st.sampled_from([0.0, 50.0, 5_000.0]),
)
def test_every_step_of_the_plan_is_told_in_order(strategy: Strategy, steps: set[int], hold_s: int, rate: float) -> None:
    mine = part(rate=rate, strategy=strategy, steps=(*sorted(steps), BUCKETS), hold_s=hold_s, min_samples=0)
    found = outline([mine], AT)
    plan = plan_for(mine.rollout.policy, 4).steps
    shares = [happening.share for happening in found.happenings if "of the users" in happening.what]
    assert shares == [step.weight / BUCKETS for step in plan]
    assert found.ends == {"orders": "promoted"}
    assert found.duration_s >= hold_s * (len(plan) - 1)
    moments = [happening.after_s for happening in found.happenings]
    assert moments == sorted(moments)
    assert all(sum(happening.wanted.values()) >= 4 for happening in found.happenings)
    started, stopped = (sum(getattr(h, name) for h in found.happenings) for name in ("started", "stopped"))
    assert (started, stopped) == (4, 0 if mine.rollout.keeping else 4)


def test_gates_approvals_pauses_and_what_comes_after_are_told() -> None:
    rules = (StepRule(weight=500, pause_s=0.0), StepRule(weight=BUCKETS, approve=True))
    gates = (Gate(name="lint"),)
    found = outline([part(steps=(500, BUCKETS), rules=rules, gates=gates, keep_s=600.0, bake_s=900.0)], AT)
    text = told(outline_status(found))
    order = [
        "start 1 instance",
        "gate lint",
        "5 % of the users to 1.1; pauses until `gapless rollout orders resume`",
        "approval of 100 % of the users: `gapless rollout orders approve`",
        "100 % of the users",
        "promoted",
        "the 4 instances of 1.0 are kept until now",
        "the bake is over",
        "if all goes well: orders promoted",
    ]
    assert [text.find(part) for part in order] == sorted(text.find(part) for part in order)
    assert -1 not in [text.find(part) for part in order], text


def test_too_few_requests_are_foreseen() -> None:
    found = outline([part(rate=0.5, patience_s=600.0)], AT)
    assert found.ends == {"orders": "rolled back"}
    assert any("no sufficient evidence within 600 s" in happening.why for happening in found.happenings)


def test_a_freeze_is_waited_for() -> None:
    calendar = Calendar(owner="the system", freezes=(Freeze(from_at=0, until_at=AT + 86_400, reason="sale"),))
    mine = part(strategy=Strategy.BLUE_GREEN)
    scheduled = replace(mine, rollout=replace(mine.rollout, state=RolloutState.SCHEDULED), calendars=(calendar,))
    found = outline([scheduled], AT)
    assert found.ends == {"orders": "promoted"}
    assert 86_400 <= found.duration_s < 87_000
    assert "the system is frozen: sale" in found.warnings[0]
    never = replace(calendar, freezes=(Freeze(from_at=0, until_at=30e9, reason="for good"),))
    end = outline([replace(scheduled, calendars=(never,))], AT).ends["orders"]
    assert end.startswith("not within sight: the system")


def test_a_train_is_told_step_by_step_together() -> None:
    caller = replace(part("orders", train="t", steps=(500, BUCKETS)), needs=frozenset({"payment"}))
    found = outline([caller, part("payment", train="t", steps=(500, BUCKETS))], AT)
    assert found.ends == {"orders": "promoted", "payment": "promoted"}
    moved = [(h.service, h.share) for h in found.happenings if "of the users" in h.what]
    assert moved == [("payment", 0.05), ("orders", 0.05), ("payment", 1.0), ("orders", 1.0)]


def test_judged_by_health_is_a_warning() -> None:
    found = outline([part(rate=0.0, judged_by=JudgedBy.HEALTH, min_samples=0)], AT)
    assert any("judged by health alone" in warning for warning in found.warnings)
    assert not any("no request was seen" in warning for warning in found.warnings)
    assert any(what == "promoted" for what in whats(found))


def test_spans_are_told_in_two_units() -> None:
    assert [span(s) for s in (0, 59.6, 61, 3_600, 90_061)] == ["0s", "1m", "1m 1s", "1h", "1d 1h"]
