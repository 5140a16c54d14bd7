"""What past rollouts have left in the state directory goes, and nothing else."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gapless.control.gates.leavings import ROLLOUTS_KEPT, Leavings, leavings, outlived
from tests.unit.control_kit import ME, Rig

names = st.from_regex(r"[a-z]{1,3}(-[a-z0-9]{1,3})?", fullmatch=True)


@given(names, st.integers(1, 200), st.sets(st.integers(1, 220)))
def test_so_many_are_kept_and_no_more(service: str, newest: int, numbers: set[int]) -> None:
    there = {leavings(Path(), service, number).name for number in numbers}
    gone = set(outlived(there, {service: newest}))
    assert gone == {f"{service}-{number}" for number in numbers if number <= newest - ROLLOUTS_KEPT}
    assert len([number for number in numbers if number <= newest]) - len(gone) <= ROLLOUTS_KEPT
    assert set(outlived(there, {})) == there, "its service has left"


def test_what_has_another_name_is_left_alone() -> None:
    assert outlived(["notes", "-3", "web-x", "web-", "web-٣"], {"web": 900}) == []


async def test_a_control_plane_tidies_up_behind_its_rollouts() -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    state = rig.plane.system.state
    kept, left = leavings(state, "web", 1), leavings(state, "gone", 1)
    for path in (kept, left):
        path.mkdir(parents=True)
        (path / "tests.xml").write_text("<testsuites/>")
    await Leavings(rig.plane.records, state).tidy()
    assert (kept.exists(), left.exists()) == (True, False)
    await rig.down()
