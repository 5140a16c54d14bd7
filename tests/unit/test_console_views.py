"""What the console's pages show, from records and figures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gapless.console import words
from gapless.console.bake import bake_of, watched_until
from gapless.console.budget import budget_of, burn_rate
from gapless.console.charts import on_log_scale, spark
from gapless.console.configuration import flat, line
from gapless.console.evidence import chart_of, meter_of, trail_of
from gapless.console.fleet import row
from gapless.console.gateways import Gateways
from gapless.console.history import filled, of_looks
from gapless.console.incidents import days, failures, firing, of_alert, of_change
from gapless.console.instances import in_order, log_line, shown
from gapless.console.lately import Slot, added, begun, together
from gapless.console.layers import HEIGHT, WIDTH, layout
from gapless.console.objectives import promise
from gapless.console.recorded import BURN_WINDOWS_S, Recorded
from gapless.console.rollout import acts_of, standing, steps_of
from gapless.console.topology import curve, gateway_troubles, set_aside
from gapless.console.traces import trace_view
from gapless.core.model import (
    BUCKETS,
    HISTOGRAM_BOUNDS_S,
    Address,
    Change,
    Evidence,
    Instance,
    Objective,
    Phase,
    Rollout,
    RolloutPolicy,
    RolloutState,
    Route,
    Service,
    Split,
    StepRule,
    Window,
)
from gapless.core.model.alert import Alert, AlertState
from gapless.core.model.look import Look
from gapless.observe.trace.spans import Span
from gapless.testing.signals import FakeSignals
from gapless.testing.traffic import FakeTraffic
from gapless.testing.world import FakeWorld

WEB = Service(name="web", app="web:app", instances=2, routes=(Route(),))
POLICY = RolloutPolicy(steps=(1_000, 5_000, BUCKETS))
APPROVED = replace(POLICY, rules=(StepRule(weight=BUCKETS, approve=True),))
ROLLOUT = Rollout(
    number=1,
    service="web",
    before="1.0.0",
    after="1.1.0",
    policy=POLICY,
    instances=2,
    state=RolloutState.SHIFTING,
    step=1,
    target=1,
    started_at=100.0,
    shifted_at=110.0,
)


def instance(name: str, phase: Phase = Phase.READY, **more: object) -> Instance:
    made = Instance(id=name, service="web", release="1.0.0", address=Address(host="127.0.0.1", port=1), phase=phase)
    return replace(made, **more)  # type: ignore[arg-type]


def slot(at: float, requests: int, errors: int = 0, length_s: float = 10.0) -> Slot:
    latency = [0] * (len(HISTOGRAM_BOUNDS_S) + 1)
    latency[20] = requests
    return Slot(at=at, length_s=length_s, window=Window(requests=requests, errors=errors, latency=tuple(latency)))


# --- words ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.42, "0.4"),
        (12.34, "12.3"),
        (120.4, "120"),
        (1_234.0, "1.2k"),
        (23_456.0, "23k"),
        (None, words.NOTHING),
    ],
)
def test_rates_have_three_digits_at_most(value: float | None, text: str) -> None:
    assert words.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0042, "4.2 ms"), (0.118, "118 ms"), (2.5, "2.50 s"), (0.9999, "1.00 s"), (None, words.NOTHING)],
)
def test_latencies(value: float | None, text: str) -> None:
    assert words.took(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 %"), (0.00001, "< 0.01 %"), (0.0042, "0.42 %"), (0.012, "1.2 %"), (0.64, "64 %")]
)
def test_few_errors_are_not_none(value: float, text: str) -> None:
    assert words.percent(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42, "42 s"), (60, "1 min"), (65, "1 min 5 s"), (3_900, "1 h 5 min"), (90_000, "1 d 1 h"), (-3, "0 s")],
)
def test_time_spans_have_two_units(seconds: float, text: str) -> None:
    assert words.lasted(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (0.488, "0.488"), (2e6, "2.0·10⁶"), (3e-5, "3.0·10⁻⁵")])
def test_evidence_is_short_however_large(value: float, text: str) -> None:
    assert words.evidence(value) == text


@given(value=st.floats(min_value=0, max_value=1e300))
@example(value=5e-324)
def test_evidence_is_always_a_few_signs(value: float) -> None:
    assert len(words.evidence(value)) <= 12


# --- charts ---


@given(values=st.lists(st.none() | st.floats(min_value=0, max_value=1e9), max_size=40))
def test_a_spark_stays_in_its_frame(values: list[float | None]) -> None:
    found = spark(values)
    if found is None:
        assert sum(value is not None for value in values) < 2
        return
    points = [tuple(map(float, p.split(","))) for p in found.line.replace("M", " ").replace("L", " ").split()]
    assert all(0 <= x <= found.width and 0 <= y <= found.height for x, y in points)
    assert len(points) == sum(value is not None for value in values)


@given(value=st.floats(min_value=0, max_value=1e12))
def test_the_log_scale_goes_from_end_to_end(value: float) -> None:
    assert 0.0 <= on_log_scale(value, 0.01, 1000) <= 1.0
    assert on_log_scale(value, 0.01, 1000) <= on_log_scale(value * 2, 0.01, 1000)


# --- figures ---


def test_slots_are_added_by_their_time() -> None:
    total = added([[slot(0, 10, 1), slot(10, 20)], [slot(10, 5, 2)]])
    assert [(s.at, s.window.requests, s.window.errors) for s in total] == [(0, 10, 1), (10, 25, 2)]


def test_the_time_before_the_first_answer_is_not_zero() -> None:
    assert [s.at for s in begun([slot(0, 0), slot(10, 0), slot(20, 3), slot(30, 0)])] == [20, 30]
    assert begun([slot(0, 0)]) == []


def test_now_is_the_last_seconds_only() -> None:
    now = together([slot(0, 100), slot(10, 20), slot(20, 40)], 30.0, 20.0)
    assert (now.window.requests, now.rate) == (60, 3.0)


def test_a_p99_needs_some_answers() -> None:
    assert slot(0, 5).p99_s is None
    assert slot(0, 50).p99_s == pytest.approx(0.0001 * 1.25**20, rel=0.3)


def test_a_budget_is_what_may_still_fail() -> None:
    half = budget_of(Objective(max_error_rate=0.02), (1000, 10))
    assert half is not None
    assert (half.left, half.tone, half.requests) == (pytest.approx(0.5), "good", 1000)
    gone = budget_of(Objective(max_error_rate=0.02), (1000, 40))
    assert gone is not None
    assert (gone.left, gone.bar, gone.tone) == (pytest.approx(-1.0), 0.0, "bad")
    assert budget_of(Objective(), (3, 0)) is None
    assert budget_of(Objective(), None) is None


def test_the_burn_rate_is_one_when_just_the_permitted_share_fails() -> None:
    assert burn_rate(Objective(max_error_rate=0.01), 0.01) == 1.0
    assert burn_rate(Objective(max_error_rate=0.05, availability=0.999), 0.002) == pytest.approx(2.0)
    assert burn_rate(Objective(), None) is None


def test_an_objective_draws_its_limit_inside_its_chart() -> None:
    calm = promise(WEB, [slot(at, 50) for at in range(0, 100, 10)], {}, None, 100.0)
    shares = {("web", seconds): 0.6 for seconds in BURN_WINDOWS_S}
    wild = promise(WEB, [slot(at, 50, 30) for at in range(0, 100, 10)], shares, (500, 300), 100.0)
    assert 0 < calm.limit_y < 96
    assert 0 < calm.limit_y < wild.limit_y < 96
    assert [burn.tone for burn in wild.burns] == ["bad"] * 4
    assert wild.budget is not None
    assert promise(WEB, [], {}, None, 100.0).budget is None


# --- fleet ---


def test_a_steady_service_in_its_row() -> None:
    split = Split(service="web", stable="1.0.0", weights=(("1.0.0", BUCKETS),))
    found = row(WEB, split, [instance("web-1"), instance("web-2")], None, [slot(0, 100), slot(10, 100)], 20.0)
    assert (found.phase, found.tone, found.ready, found.rate) == ("steady", "good", 2, 10.0)
    assert [(share.release, share.share, share.role) for share in found.shares] == [("1.0.0", 1.0, "stable")]


def test_a_moving_service_shows_both_releases_the_newcomer_last() -> None:
    split = Split(service="web", stable="1.0.0", weights=(("1.1.0", 5_000), ("1.0.0", 5_000)))
    found = row(WEB, split, [instance("web-1"), instance("web-2")], ROLLOUT, [], 20.0)
    assert [share.role for share in found.shares] == ["stable", "new"]
    assert (found.phase, found.step) == ("shifting", "step 2 of 3, 50 %")
    assert found.rate is None


@pytest.mark.parametrize(
    ("ready", "rollout", "tone"),
    [(0, None, "bad"), (1, None, "warn"), (2, replace(ROLLOUT, paused=True), "warn"), (2, ROLLOUT, "accent")],
)
def test_what_is_worst_names_the_phase(ready: int, rollout: Rollout | None, tone: str) -> None:
    found = row(WEB, None, [instance(f"web-{n}") for n in range(ready)], rollout, [], 0.0)
    assert found.tone == tone


# --- rollout ---


@pytest.mark.parametrize(
    ("change", "states"),
    [
        ({}, ["done", "now", "next"]),
        ({"state": RolloutState.PROMOTED, "winner": "1.1.0", "step": 2}, ["done", "done", "done"]),
        ({"state": RolloutState.ROLLED_BACK, "winner": "1.0.0"}, ["undone", "undone", "left out"]),
        ({"state": RolloutState.STARTING, "step": -1}, ["next", "next", "next"]),
    ],
)
def test_steps_say_how_far_it_came(change: dict[str, object], states: list[str]) -> None:
    steps = steps_of(replace(ROLLOUT, **change))  # type: ignore[arg-type]
    assert [step.state for step in steps] == states
    assert [step.share for step in steps] == [0.1, 0.5, 1.0]


@pytest.mark.parametrize(
    ("change", "verbs"),
    [
        ({}, ["promote", "skip", "pause", "abort"]),
        ({"paused": True}, ["promote", "skip", "resume", "abort"]),
        ({"step": 2}, ["promote", "pause", "abort"]),
        ({"policy": APPROVED}, ["approve", "promote", "pause", "abort"]),
        ({"winner": "1.1.0"}, ["pause", "abort"]),
        ({"state": RolloutState.PROMOTED}, ["rollback"]),
        ({"state": RolloutState.ROLLED_BACK}, []),
        ({"state": RolloutState.FINISHING}, []),
    ],
)
def test_only_what_can_be_done_now_is_offered(change: dict[str, object], verbs: list[str]) -> None:
    acts = acts_of(replace(ROLLOUT, **change), newest=True)  # type: ignore[arg-type]
    assert [act.verb for act in acts] == verbs
    assert all("{" not in act.question for act in acts)


def test_an_older_rollout_cannot_be_rolled_back() -> None:
    assert acts_of(replace(ROLLOUT, state=RolloutState.PROMOTED), newest=False) == ()


@given(
    errors=st.tuples(*[st.floats(min_value=-50, max_value=800)] * 7),
    alpha=st.floats(min_value=0.001, max_value=0.2),
)
def test_the_meter_has_all_in_order(errors: tuple[float, ...], alpha: float) -> None:
    rollout = replace(ROLLOUT, evidence=Evidence(errors=errors), policy=replace(POLICY, alpha=alpha))
    meter = meter_of(rollout)
    assert 0 < meter.even_place < meter.caution_place < meter.limit_place < 1
    needle = meter.needles[0]
    assert (needle.tone == "bad") is (needle.value >= meter.limit)
    assert (needle.place >= meter.limit_place) is (needle.value >= meter.limit)


def test_the_chart_has_both_releases_in_the_same_seconds() -> None:
    figures = json.loads(chart_of(ROLLOUT, Objective(), [slot(0, 100, 1), slot(5, 100)], [slot(5, 20, 2)]))
    assert figures["at"] == [0, 5]
    assert figures["errors"]["series"] == [[1.0, 0.0], [None, 10.0]]
    assert figures["errors"]["limit"] == 5.0
    assert figures["errors"]["pass"] == 5.0
    assert figures["p99"]["limit"] is None
    assert chart_of(ROLLOUT, Objective(), [slot(0, 0)], []) == ""


def test_what_is_promoted_and_what_goes_back_part_while_the_stable_release_fails() -> None:
    broken = replace(ROLLOUT, evidence=Evidence(stable_now=(200.0, 40.0)))
    figures = json.loads(chart_of(broken, Objective(), [slot(0, 100, 20)], []))
    assert figures["errors"]["pass"] == 5.0
    assert figures["errors"]["limit"] > 20.0


def looked(at: float, requests: int, errors: int = 0) -> Look:
    return Look(at=at, weight=1_000, decision="hold", reason="", canary_requests=requests, canary_errors=errors)


def test_looks_are_slots_and_thinned_ones_longer_slots() -> None:
    looks = [looked(11, 5), looked(12, 5, 1), looked(21, 30)]
    found = of_looks(looks, 10.0, canary=True)
    assert [(s.at, s.length_s, s.window.requests, s.window.errors) for s in found] == [(10, 11, 40, 1)]
    assert of_looks([looked(16, 4), looked(21, 3)], 10.0, canary=True)[1].at == 15
    assert of_looks(looks, 10.0, canary=False) == []


@given(
    known=st.sets(st.integers(min_value=0, max_value=20)),
    more=st.sets(st.integers(min_value=0, max_value=20)),
)
def test_what_is_known_is_never_counted_twice_nor_left_out(known: set[int], more: set[int]) -> None:
    fine = [slot(at * 5, 1, length_s=5.0) for at in sorted(known)]
    coarse = [slot(at * 10, 2) for at in sorted(more)]
    found = filled(fine, coarse)
    assert [s for s in found if s.length_s == 5.0] == fine
    assert all(before.at + before.length_s <= after.at for before, after in pairwise(found))
    free = [at for at in more if not {2 * at, 2 * at + 1} & known]
    assert len(found) == len(fine) + len(free)


def test_the_trail_of_the_evidence_touches_its_top_where_a_release_goes_back() -> None:
    calm = Look(at=0.0, weight=1_000, decision="hold", reason="", e_errors=0.2, e_slow=1.0, e_broken=0.5, e_limit=300.0)
    trail = trail_of([calm, replace(calm, e_errors=300.0)])
    assert trail is not None
    assert (trail.highest, trail.y) == (1.0, 2.0)
    assert trail_of([]) is None


def test_what_the_analysis_said_last_is_why_it_waits() -> None:
    assert standing(ROLLOUT, "power 0.4 of 0.8")[0] == "power 0.4 of 0.8"


def test_a_share_by_hand_is_told() -> None:
    assert "with 40 % of the users on 1.1.0 by hand" in standing(replace(ROLLOUT, paused=True, by_hand=4_000))[0]


@pytest.mark.parametrize("state", list(RolloutState))
def test_every_state_is_told_in_a_sentence(state: RolloutState) -> None:
    text, tone = standing(replace(ROLLOUT, state=state, winner="1.1.0"))
    assert text
    assert tone in ("good", "bad", "warn", "accent")


BAKED = replace(ROLLOUT, policy=replace(POLICY, bake_s=600.0), state=RolloutState.PROMOTED, ended_at=200.0)
"""Promoted, and watched for ten minutes."""
TAKEN_BACK = replace(ROLLOUT, number=2, undoes=1, automatic=True)


@pytest.mark.parametrize(
    ("rollout", "later", "state", "said"),
    [
        (replace(BAKED, state=RolloutState.SHIFTING, ended_at=0.0), (), "next", ""),
        (BAKED, (), "now", "It is watched for 5 min more"),
        (BAKED, (replace(ROLLOUT, number=2),), "left out", "Rollout 2 began before"),
        (replace(BAKED, baked_at=800.0), (), "done", "Watched for 10 min after its promotion: it did no harm."),
        (
            replace(BAKED, baked_at=260.0),
            (replace(ROLLOUT, number=2, undoes=1, automatic=True),),
            "undone",
            "rollout 2",
        ),
    ],
)
def test_the_watch_after_a_promotion_is_a_step(
    rollout: Rollout, later: tuple[Rollout, ...], state: str, said: str
) -> None:
    bake = bake_of(rollout, later, (), 500.0)
    assert bake
    assert bake.state == state
    assert said in bake.text


def test_where_nothing_is_watched_there_is_no_such_step() -> None:
    assert bake_of(replace(BAKED, policy=POLICY), (), (), 500.0) is None
    assert bake_of(replace(BAKED, state=RolloutState.ROLLED_BACK), (), (), 500.0) is None


@pytest.mark.parametrize(
    ("rollout", "until_at"),
    [(ROLLOUT, 500.0), (replace(BAKED, policy=POLICY), 200.0), (BAKED, 500.0), (replace(BAKED, baked_at=260.0), 260.0)],
)
def test_a_rollout_is_drawn_as_long_as_it_is_watched(rollout: Rollout, until_at: float) -> None:
    assert watched_until(rollout, 500.0) == until_at


def test_the_analysis_is_quoted_while_it_watches() -> None:
    look = Look(at=300.0, weight=10_000, decision="hold", reason="no guard rail was crossed")
    bake = bake_of(BAKED, (), (look,), 500.0)
    assert bake
    assert bake.text.endswith("when it does harm: no guard rail was crossed.")


# --- incidents ---


def test_who_decided_is_told_apart() -> None:
    by_hand = of_change(Change(number=1, at=1.0, who="ada", what="deploy web 1.1.0", service="web", why="new"))
    by_itself = of_change(
        Change(number=2, at=2.0, who="gapless", what="rollout 1 of web: rolled back", numbers={"e_errors": 250.0})
    )
    assert (by_hand.kind, by_hand.tone, by_hand.numbers) == ("change", "plain", ())
    assert (by_itself.kind, by_itself.tone, by_itself.numbers) == ("decision", "bad", (("e errors", "250"),))


def test_failures_are_those_against_our_will() -> None:
    found = failures(
        [
            instance("web-1", Phase.STOPPED, failed=True, was_ready=True, detail="killed by SIGKILL\nlast line"),
            instance("web-2", Phase.STOPPED, failed=True, detail="no such package"),
            instance("web-3", Phase.STOPPED, detail="no longer wanted"),
            instance("web-4", Phase.UNREADY, detail="the database is away"),
            instance("web-5"),
        ]
    )
    assert [m.title for m in found] == [
        "web-1 failed: killed by SIGKILL",
        "web-2 never became ready: no such package",
        "web-4 is unready: the database is away",
    ]
    assert found[0].detail == "last line"


def test_days_have_their_moments_in_order() -> None:
    moments = [
        of_change(Change(number=n, at=at, who="x", what="y")) for n, at in ((3, 90_000.0), (2, 200.0), (1, 100.0))
    ]
    found = days(moments)
    assert [len(day.moments) for day in found] == [1, 2]
    assert "1970" in found[0].title


# --- topology ---

NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1, max_size=8)


@given(data=st.data(), nodes=NAMES)
def test_no_two_nodes_overlap_and_every_edge_has_a_way(data: st.DataObject, nodes: list[str]) -> None:
    edges = data.draw(st.lists(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=14))
    found = layout(nodes, edges)
    places = [found.places[node] for node in nodes]
    for n, one in enumerate(places):
        assert 0 <= one.x <= found.width - WIDTH
        assert 0 <= one.y <= found.height - HEIGHT
        for other in places[n + 1 :]:
            assert abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
    assert set(found.ways) == {(a, b) for a, b in edges if a != b}
    for (source, target), way in found.ways.items():
        assert way[0] == (found.places[source].right, found.places[source].middle)
        assert way[-1] == (found.places[target].x, found.places[target].middle)
        assert curve(way).count("C") == len(way) - 1


def test_a_chain_goes_to_the_right() -> None:
    found = layout(["gateway", "a", "b", "c"], [("gateway", "a"), ("a", "b"), ("b", "c"), ("gateway", "c")])
    xs = [found.places[name].x for name in ("gateway", "a", "b", "c")]
    assert xs == sorted(set(xs))
    long = found.ways["gateway", "c"]
    assert len(long) == 6  # around the two layers between
    assert all(x1 <= x2 for (x1, _), (x2, _) in pairwise(long))


def test_a_service_that_nobody_calls_is_not_the_way_in() -> None:
    found = layout(["gateway", "a", "lonely"], [("gateway", "a")])
    assert found.places["lonely"].x == found.places["a"].x


def test_who_runs_and_gets_nothing_is_named_with_its_reason() -> None:
    aside = set_aside([instance("web-1"), instance("web-2", Phase.UNREADY, detail="3 probes failed")])
    assert aside == ["web-2 is unready: 3 probes failed"]
    ejected = set_aside([instance("web-1"), instance("web-2", Phase.STOPPED)], {"127.0.0.1:1"})
    assert ejected == ["web-1 (1.0.0) is ejected by the gateway for a while: it failed too often in a row"]


async def test_gateways_elsewhere_are_told_apart_and_what_is_wrong_with_them() -> None:
    ours = {"node": "gapless", "lagging": True, "refused": ""}
    fine = {"node": "edge-1", "lagging": False, "refused": ""}
    others = ({"node": "edge-2", "lagging": True, "refused": ""}, {"node": "edge-3", "lagging": True, "refused": "no"})

    class Envoys(FakeTraffic):
        async def details(self) -> dict[str, Any]:
            return {"ejected": [{"address": "127.0.0.1:9"}], "gateways": [ours, fine, *others]}

    told = await Gateways(Envoys(FakeWorld())).told(1.0)
    assert told.ejected == {"127.0.0.1:9"}
    assert told.elsewhere == (fine, *others)
    assert gateway_troubles(told.elsewhere) == [
        ("edge-2", "does not answer, and goes on with the routes that it has"),
        ("edge-3", "refuses the newest routes: no"),
    ]


# --- instances ---


def test_the_living_come_first_and_few_of_the_ended() -> None:
    ended = [instance(f"old-{n}", Phase.STOPPED, since_at=float(n)) for n in range(20)]
    found = in_order([*ended, instance("web-2", created_at=2.0), instance("web-1", created_at=1.0)])
    assert [i.id for i in found][:3] == ["web-1", "web-2", "old-19"]
    assert len(found) == 8


def test_a_drain_shows_how_far_it_is() -> None:
    service = replace(WEB, drain_s=10.0)
    told = {"workers": [{"connections": 3, "accepting": False}, {"connections": 1, "accepting": True}]}
    found = shown(instance("web-1", Phase.DRAINING, since_at=100.0), service, told, {}, 104.0)
    assert (found.drain, found.drain_left_s, found.connections, found.workers) == (0.4, 6.0, 4, 1)
    assert shown(instance("web-1"), service, None, {}, 104.0).drain is None


@pytest.mark.parametrize(
    ("text", "tone"),
    [
        ("2026 ERROR no", "bad"),
        ('{"level": "warning"}', "warn"),
        ("all is well", ""),
        ("Traceback (most recent", "bad"),
    ],
)
def test_log_lines_have_the_tone_of_their_level(text: str, tone: str) -> None:
    assert log_line(text).tone == tone


@pytest.mark.parametrize(
    ("factor", "said"), [(0, "0"), (0.2271, "0.23"), (23.61, "23.6"), (999.9, "1000"), (1230.4, "1230")]
)
def test_factors_are_short(factor: float, said: str) -> None:
    assert words.times(factor) == said + "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("left", "told"), [((100, 1), "50 %"), ((100, 2), "spent 1\N{MULTIPLICATION SIGN}"), ((0, 0), None)]
)
def test_a_budget_is_told_in_two_words(left: tuple[float, float], told: str | None) -> None:
    budget = budget_of(Objective(max_error_rate=0.02), left)
    assert (budget.told if budget else None) == told


def test_json_is_shown_as_people_read_it() -> None:
    text = (
        '{"time":"2026-11-30T19:53:53.186+00:00","level":"error","logger":"a","message":"no stock","user":"7","b":{}}'
    )
    line = log_line(text)
    assert (line.clock, line.text, line.more, line.tone) == ("19:53:53.186", "no stock", "user=7", "bad")
    for other in ("{cut", '{"msg": "another shape"}', "[1]"):
        assert log_line(other).text == other


# --- configuration ---


def test_values_are_shown_by_their_path() -> None:
    assert flat({"price": {"max": 5, "min": None}, "debug": True, "name": "x"}) == [
        ("debug", "True"),
        ("name", "x"),
        ("price.max", "5"),
        ("price.min", words.NOTHING),
    ]


@pytest.mark.parametrize(("text", "sign"), [("+ a: 1", "+"), ("- a: 1", "-"), ("price.max: 3 → 5", "~")])
def test_lines_of_a_diff_have_their_sign(text: str, sign: str) -> None:
    assert line(text).sign == sign


# --- traces ---


def span(name: str, parent: str = "", began_at: float = 0.0, took_s: float = 1.0) -> Span:
    return Span("t", name, parent, f"GET /{name}", "server", f"service-{name[-1]}", "i", "1.0.0", began_at, took_s)


@given(data=st.data())
def test_every_span_of_a_trace_has_its_bar_inside(data: st.DataObject) -> None:
    count = data.draw(st.integers(min_value=1, max_value=12))
    at = st.floats(min_value=0, max_value=3)
    spans = [span(f"s{n}", f"s{n - 1}" if n % 3 else "gone", data.draw(at), data.draw(at)) for n in range(count)]
    shown_trace = trace_view(sorted(spans, key=lambda each: each.began_at))
    assert sorted(bar.span.span_id for bar in shown_trace.bars) == sorted(each.span_id for each in spans)
    for bar in shown_trace.bars:
        assert 0 <= bar.left <= 100
        assert bar.width > 0
        assert bar.left + bar.width <= 100.01


# --- alerts ---


def test_an_alert_is_on_the_time_line_when_it_fired_and_when_it_was_over() -> None:
    pending = Alert(number=1, key="k", rule="errors")
    fired = replace(pending, state=AlertState.FIRING, fired_at=100.0)
    over = replace(fired, state=AlertState.RESOLVED, resolved_at=160.0)
    assert of_alert(pending) == []
    assert [(m.at, m.tone) for m in of_alert(fired)] == [(100.0, "bad")]
    assert [(m.at, m.tone) for m in of_alert(over)] == [(160.0, "good"), (100.0, "warn")]
    assert firing([pending, fired, over]) == [fired]


# --- the record of metrics ---


async def test_services_behind_others_are_shown_by_their_own_count() -> None:
    world = FakeWorld()
    signals = FakeSignals(world)
    signals.put_steady("gapless_requests_total", {"service": "web", "status": "2xx"}, per_s=8)
    signals.put_steady("gapless_requests_total", {"service": "web", "status": "5xx"}, per_s=2)
    labels = {"service": "web", "target": "db"}
    signals.put_steady("gapless_client_attempts_total", labels | {"outcome": "answered"}, per_s=3)
    signals.put_steady("gapless_client_attempts_total", labels | {"outcome": "reset"}, per_s=1)
    recorded = Recorded(signals)
    now = together(await recorded.slots("web", world.time()), world.time(), 60.0)
    assert now.rate == pytest.approx(10, rel=0.1)
    assert now.error_rate == pytest.approx(0.2, rel=0.1)
    rate, errors = (await recorded.calls(world.time()))["web", "db"]
    assert (rate, errors) == (pytest.approx(4, rel=0.1), pytest.approx(0.25, rel=0.1))
    asked = len(signals.asked)
    await recorded.slots("web", world.time() + 1)
    assert len(signals.asked) == asked


async def test_a_day_and_a_release_are_counted_from_the_record() -> None:
    world = FakeWorld()
    signals = FakeSignals(world)
    labels = {"service": "web", "release": "2.0.0"}
    signals.put_steady("gapless_requests_total", labels | {"status": "2xx"}, per_s=9)
    signals.put_steady("gapless_requests_total", labels | {"status": "5xx"}, per_s=1)
    recorded, now_at = Recorded(signals), world.time()
    requests, errors = (await recorded.counts(now_at))["web"]
    assert (requests, errors / requests) == (pytest.approx(36_000, rel=0.01), pytest.approx(0.1, rel=0.01))
    found = await recorded.of_release("web", "2.0.0", now_at - 600, now_at - 300, now_at)
    assert now_at - 620 <= found[0].at
    assert found[-1].at <= now_at - 300
    assert found[3].rate == pytest.approx(10, rel=0.1)
    assert await recorded.of_release("web", "1.0.0", now_at - 600, now_at, now_at) == []


async def test_without_a_record_there_are_no_figures() -> None:
    world = FakeWorld()
    signals = FakeSignals(world, away="the Prometheus is away")
    recorded = Recorded(signals)
    assert await recorded.slots("web", world.time()) == []
    assert await recorded.calls(world.time()) == {}
    assert await recorded.breakers(world.time()) == []
