"""Shares by hand: what may be, whose release changes, and what becomes of them on a whole control plane."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.cli.split import share_of
from gapless.control.rollouts import Terms
from gapless.core.errors import Busy, ConfigError, Frozen, InvalidTransition, UnknownName
from gapless.core.model import (
    BUCKETS,
    Calendar,
    Change,
    Freeze,
    Rollout,
    RolloutPolicy,
    RolloutState,
    Split,
    SplitBy,
    StepRule,
    Strategy,
)
from gapless.rollout.by_hand import divided, refuse_without_room, steered, weights_of
from gapless.rollout.commands import resume
from gapless.rollout.wanted import end_split, step_split, weight_of
from tests.unit.control_kit import ME, POLICY, WEB, Rig

KEEPING = replace(WEB, rollout=replace(POLICY, strategy=Strategy.BLUE_GREEN, keep_s=30.0))
PAUSING = replace(WEB, rollout=replace(POLICY, rules=(StepRule(weight=3_000, pause_s=0.0),)))
PAUSED = Rollout(
    number=7,
    service="web",
    before="old",
    after="new",
    policy=RolloutPolicy(steps=(3_000, BUCKETS)),
    instances=2,
    state=RolloutState.SHIFTING,
    step=0,
    shifted_at=1.0,
    applied_at=2.0,
    paused=True,
)
PROMOTED = replace(PAUSED, state=RolloutState.PROMOTED, paused=False, step=1, winner="new")
weights = st.integers(1, BUCKETS - 1)


@given(st.lists(st.integers(0, BUCKETS), min_size=1, max_size=4))
def test_shares_are_taken_as_they_are_or_refused_with_ones_that_would_be(found: list[int]) -> None:
    shares = [(f"r{place}", weight / 100) for place, weight in enumerate(found)]
    if sum(found) == BUCKETS:
        assert list(weights_of(shares).values()) == found
        return
    with pytest.raises(ConfigError, match="and not to 100") as caught:
        weights_of(shares)
    proposed = caught.value.remedy.removeprefix("Write for instance ").removesuffix(".").split(" ")
    assert sum(weights_of([share_of(text) for text in proposed]).values()) == BUCKETS


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([("a", 120.0), ("b", -20.0)], "a=120 is no share"),
        ([("a", float("nan"))], "a=nan is no share"),
        ([("a", 0.001), ("b", 99.999)], "a=0.001 is no share"),
        ([("a", 50.0), ("a", 50.0)], "a is named twice"),
        ([], "add up to 0 %"),
    ],
)
def test_what_is_no_share_is_named(shares: list[tuple[str, float]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        weights_of(shares)


def test_words_of_the_command_line() -> None:
    assert (share_of("1.5=10"), share_of("1.5=0.5%"), share_of("a=b=1")) == (("1.5", 10), ("1.5", 0.5), ("a=b", 1))
    for wrong in ("1.5", "1.5=ten", "=10"):
        with pytest.raises(ConfigError, match="is not RELEASE=PERCENT"):
            share_of(wrong)


def owners(split: Split) -> list[str]:
    return [split.release_of(bucket) for bucket in range(BUCKETS)]


@given(weights, weights)
def test_raising_a_share_only_adds_users_whichever_release_it_is(one: int, other: int) -> None:
    """In a paused rollout, at rest, and between the two."""
    shared = [
        step_split(steered(PAUSED, {"new": new, "old": BUCKETS - new}), new)
        if paused
        else divided(end_split(PROMOTED), PROMOTED, {"new": new, "old": BUCKETS - new})
        for new, paused in ((one, True), (other, True), (one, False), (other, False))
    ]
    assert owners(shared[0]) == owners(shared[2])
    less, more = sorted(shared[1:3], key=lambda split: dict(split.weights)["new"])
    assert not [b for b, (was, now) in enumerate(zip(owners(less), owners(more), strict=True)) if was == "new" != now]
    assert len({(split.salt, split.by) for split in shared}) == 1, "users have the same buckets"


@given(weights)
def test_all_users_on_the_stable_release_is_the_split_at_rest(back: int) -> None:
    rest = end_split(PROMOTED)
    split = divided(rest, PROMOTED, {"old": back, "new": BUCKETS - back})
    assert split.newcomer == "", "no release is newer than the stable one"
    again = divided(split, PROMOTED, {"new": BUCKETS})
    assert (again.weights, again.stable, again.newcomer) == (rest.weights, rest.stable, "")


@given(weights)
def test_a_resumed_rollout_has_the_share_of_its_step(by_hand: int) -> None:
    found = steered(PAUSED, {"new": by_hand, "old": BUCKETS - by_hand})
    assert (weight_of(found), found.applied_at) == (by_hand, 0.0)
    assert weight_of(resume(found, 9.0)) == 3_000


@given(weights, st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
def test_nobody_is_sent_where_they_cannot_be_carried(weight: int, instances: int, new: int, old: int) -> None:
    found = {"new": weight, "old": BUCKETS - weight}
    enough = all(
        have and have * BUCKETS >= part * instances for have, part in ((new, found["new"]), (old, found["old"]))
    )
    if enough:
        refuse_without_room("web", found, instances, {"new": new, "old": old})
        return
    with pytest.raises(InvalidTransition, match=r"no ready instance|need \d+ instances"):
        refuse_without_room("web", found, instances, {"new": new, "old": old})


@pytest.mark.parametrize(
    ("rollout", "shares", "said"),
    [
        (replace(PAUSED, paused=False), {"new": 1_000, "old": 9_000}, "moves the users itself"),
        (replace(PAUSED, state=RolloutState.STARTING, step=-1), {"new": 1_000, "old": 9_000}, "moves the users itself"),
        (replace(PAUSED, winner="new"), {"new": 1_000, "old": 9_000}, "moves the users itself"),
        (replace(PAUSED, train="t"), {"new": 1_000, "old": 9_000}, "moves with train t"),
        (PAUSED, {"new": 1_000, "older": 9_000}, "older is no release of rollout 7"),
        (PAUSED, {"new": BUCKETS}, "all the users on new is the end"),
        (PAUSED, {"old": BUCKETS}, "all the users on old is the end"),
    ],
)
def test_what_a_rollout_under_way_refuses(rollout: Rollout, shares: dict[str, int], said: str) -> None:
    with pytest.raises(InvalidTransition, match=said):
        steered(rollout, shares)


def test_what_is_refused_at_rest() -> None:
    rest = end_split(PROMOTED)
    for last, shares, said in (
        (PROMOTED, {"old": BUCKETS}, "is a rollback"),
        (PROMOTED, {"older": 1_000, "new": 9_000}, "older of web is not kept"),
        (None, {"old": 1_000, "new": 9_000}, "old of web is not kept"),
    ):
        with pytest.raises(InvalidTransition, match=said):
            divided(rest, last, shares)
    by_id = replace(PROMOTED, policy=replace(PROMOTED.policy, by=SplitBy.ID))
    with pytest.raises(ConfigError, match="whole percents only"):
        divided(rest, by_id, {"new": 9_950, "old": 50})


async def begun(service: object = KEEPING) -> Rig:
    rig = Rig(service)  # type: ignore[arg-type]
    await rig.up()
    await rig.settle()
    return rig


async def deploy(rig: Rig) -> str:
    """The release before."""
    before = rig.releases()[0]
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME, Terms())
    return before


async def divide(rig: Rig, **shares: float) -> Change:
    await rig.plane.splits.divide("web", [(name.replace("_", "-"), share) for name, share in shares.items()], ME)
    return rig.plane.records.changes()[0]


def share(rig: Rig, release: str) -> int:
    return dict(rig.traffic.table.services[0].split.weights).get(release, 0)


async def test_users_go_back_to_the_kept_pool_which_stays_for_them_and_are_given_back() -> None:
    rig = await begun()
    old = await deploy(rig)
    await rig.end_rollout()
    change = await divide(rig, **{old.replace("-", "_"): 10.0, "new": 90.0})
    assert (change.who, change.why, change.undo is not None) == (ME.who, ME.why, True)
    assert ["splits/web weights" in each.where for each in change.diff].count(True) >= 1
    await rig.kill()
    await rig.up()
    await rig.pass_time(45.0)
    assert (share(rig, old), share(rig, "new")) == (1_000, 9_000), "its 30 s are over, and somebody is there"
    assert rig.releases() == sorted([old, old, "new", "new"])
    with pytest.raises(Busy, match=r"10 % of web's users were given by hand") as caught:
        await rig.plane.rollouts.deploy("web", None, "next", {"A": "2"}, ME)
    assert "gapless split web new=100" in caught.value.remedy
    undone = await rig.plane.undoing.undo(change.number, ME)
    await rig.pass_time(1.0)
    assert share(rig, "new") == BUCKETS
    await rig.pass_time(5.0)
    assert rig.releases() == ["new", "new"], "nobody is there any more"
    with pytest.raises(InvalidTransition, match=f"{old} of web has no ready instance"):
        await rig.plane.undoing.undo(undone.change.number, ME)
    await rig.down()


async def test_a_rollback_takes_them_all() -> None:
    rig = await begun()
    old = await deploy(rig)
    await rig.end_rollout()
    await divide(rig, **{old.replace("-", "_"): 10.0, "new": 90.0})
    await rig.plane.rollouts.rollback("web", ME)
    assert await rig.end_rollout() == "promoted"
    assert share(rig, old) == BUCKETS
    await rig.down()


async def test_a_paused_rollout_takes_another_share_is_judged_there_and_goes_on_from_its_step() -> None:
    rig = await begun(PAUSING)
    old = await deploy(rig)
    await rig.pass_time(8.0)
    first = await divide(rig, new=10, **{old.replace("-", "_"): 90})
    second = await divide(rig, new=45, **{old.replace("-", "_"): 55})
    await rig.kill()
    await rig.up()
    await rig.pass_time(3.0)
    assert share(rig, "new") == 4_500
    with pytest.raises(InvalidTransition, match="need 2 instances, and new has 1"):
        await divide(rig, new=60, **{old.replace("-", "_"): 40})
    with pytest.raises(InvalidTransition, match="another share of the users by now"):
        await rig.plane.undoing.undo(first.number, ME)
    await rig.plane.undoing.undo(second.number, ME)
    await rig.pass_time(1.0)
    assert share(rig, "new") == 1_000
    await rig.plane.undoing.undo(first.number, ME)
    await rig.pass_time(1.0)
    assert share(rig, "new") == 3_000
    await divide(rig, new=5, **{old.replace("-", "_"): 95})
    await rig.plane.rollouts.steer("web", "resume", ME)
    await rig.pass_time(1.0)
    assert share(rig, "new") == 3_000
    assert await rig.end_rollout() == "promoted"
    await rig.down()


async def test_harm_at_a_share_by_hand_goes_back() -> None:
    rig = await begun(PAUSING)
    old = await deploy(rig)
    await rig.pass_time(8.0)
    await divide(rig, new=10, **{old.replace("-", "_"): 90})
    rig.load = 400
    rig.bad.add("new")
    assert await rig.end_rollout() == "rolled back"
    assert share(rig, old) == BUCKETS
    await rig.down()


async def test_what_is_not_there_or_not_now_is_refused_and_changes_nothing() -> None:
    rig = await begun()
    stable = rig.releases()[0]
    before = len(rig.plane.records.changes())
    with pytest.raises(UnknownName):
        await rig.plane.splits.divide("webb", [(stable, 100.0)], ME)
    with pytest.raises(InvalidTransition, match=r"1\.4 of web is not kept beside") as caught:
        await rig.plane.splits.divide("web", [("1.4", 10.0), (stable, 90.0)], ME)
    assert "gapless deploy web --release 1.4" in caught.value.remedy
    await deploy(rig)
    with pytest.raises(InvalidTransition, match="moves the users itself") as caught:
        await rig.plane.splits.divide("web", [("new", 10.0), (stable, 90.0)], ME)
    assert "gapless rollout web pause" in caught.value.remedy
    assert len(rig.plane.records.changes()) == before + 1
    await rig.down()


async def test_in_a_freeze_a_share_is_lowered_and_not_raised() -> None:
    rig = await begun(PAUSING)
    old = await deploy(rig)
    await rig.pass_time(8.0)
    now_at = rig.world.time()
    freeze = Freeze(from_at=now_at - 1, until_at=now_at + 600, reason="sale")
    service = rig.plane.records.service("web")
    assert service
    await rig.plane.records.write(replace(service, calendars=(Calendar(freezes=(freeze,)),)))
    with pytest.raises(Frozen):
        await divide(rig, new=40, **{old.replace("-", "_"): 60})
    await divide(rig, new=5, **{old.replace("-", "_"): 95})
    await rig.pass_time(1.0)
    assert share(rig, "new") == 500
    await rig.down()
