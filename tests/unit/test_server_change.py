"""When changed files are a reason to reload."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gapless.server.master.change import MISSING, Watched, looked
from gapless.server.master.reload_on import version

QUIET_S = 1.0


def play(looks: list[tuple[float, int]]) -> list[float]:
    """The moments at which a reload begins."""
    watched: Watched | None = None
    reloads = []
    for now, seen in looks:
        watched, due = looked(watched, seen, now, QUIET_S)
        reloads += [now] * due
    return reloads


def test_a_change_is_taken_when_it_has_been_quiet() -> None:
    assert play([(0, 1), (1, 2), (1.5, 2), (2, 2), (2.5, 2), (9, 2)]) == [2]


def test_a_deploy_that_goes_on_is_waited_for() -> None:
    assert play([(0, 1), (1, 2), (1.9, 3), (2.8, 4), (3.7, 4), (3.9, 4)]) == [3.9]


def test_what_was_tried_is_not_tried_again_and_neither_is_what_runs() -> None:
    assert play([(0, 1), (1, 2), (2, 2), (3, 2), (4, 1), (6, 1)]) == [2, 6]
    assert play([(0, 1), (1, 2), (1.5, 1), (9, 1)]) == []


def test_a_path_that_is_away_for_a_moment_is_waited_for() -> None:
    assert play([(0, 1), (1, MISSING), (9, MISSING), (10, 2), (11, 2)]) == [11]


@given(st.lists(st.tuples(st.floats(0.01, 2), st.integers(0, 3)), min_size=1))
def test_never_twice_for_the_same_version_and_never_in_a_hurry(looks: list[tuple[float, int]]) -> None:
    watched: Watched | None = None
    now, changed_at, last, tried = 0.0, 0.0, -1, -1
    for dt, seen in looks:
        now += dt
        changed_at, last = (now, seen) if seen != last else (changed_at, last)
        tried = seen if watched is None else tried
        watched, due = looked(watched, seen, now, QUIET_S)
        if due:
            assert seen not in (tried, MISSING)
            assert now - changed_at >= QUIET_S
            tried = seen


def test_a_version_changes_with_every_way_of_replacing_a_file(tmp_path: Path) -> None:
    tree = tmp_path / "v1"
    (tree / "package").mkdir(parents=True)
    module = tree / "package" / "module.py"
    module.write_text("A = 1")
    link = tmp_path / "current"
    link.symlink_to(tree)
    versions = [version([str(link)])]

    module.write_text("A = 22")
    versions.append(version([str(link)]))
    (tmp_path / "new").write_text("A = 22")
    os.replace(tmp_path / "new", module)
    versions.append(version([str(link)]))
    (tree / "package" / "more.py").touch()
    versions.append(version([str(link)]))
    (tmp_path / "v2").mkdir()
    (tmp_path / "next").symlink_to(tmp_path / "v2")
    os.replace(tmp_path / "next", link)
    versions.append(version([str(link)]))
    assert len(set(versions)) == len(versions)
    assert version([str(tmp_path / "nothing")]) == MISSING


def test_what_is_no_code_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    before = version([str(tmp_path)])
    for name in ("__pycache__", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    (tmp_path / ".app.py.swp").touch()
    assert version([str(tmp_path)]) == before
