"""A rollout drawn in a terminal, also a narrow one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.cli import draw, rollout_show
from gapless.cli.draw import ASCII, LEFT, Marks

ROLLOUT = {
    "number": 3,
    "service": "orders",
    "before": "1.0",
    "after": "1.1",
    "strategy": "canary",
    "state": "rolled back",
    "step": 1,
    "steps": [0.01, 0.05, 1.0],
    "share": 0.05,
    "paused": False,
    "refused": False,
    "reason": "more errors than the stable release",
    "ended_at": 0.0,
}
LIMITS = {"max_error_rate": 0.05, "max_p99_ratio": 3.0, "alpha": 0.01, "power": 0.8, "samples": 100, "hold_s": 60.0}


def look(at: float, errors: int = 0, e: float = 1.0) -> dict[str, Any]:
    return {
        "at": at,
        "share": 0.05,
        "canary_requests": 10,
        "canary_errors": errors,
        "stable_requests": 90,
        "stable_errors": 1,
        "canary_p99_s": 0.05,
        "stable_p99_s": 0.02,
        "e_errors": e,
        "e_slow": 1.0,
        "e_broken": 1.0,
        "e_limit": 300.0,
        "power": 0.5,
        "metrics": {"conversion.e": 1.5},
    }


def answer(*looks: dict[str, Any], decisions: int = 1) -> dict[str, Any]:
    change = {"at": 1.0, "number": 7, "who": "gapless", "what": "5 % of the users to 1.1", "why": "no sign of harm"}
    return {"rollout": ROLLOUT, "limits": LIMITS, "looks": list(looks), "decisions": [change] * decisions}


def texts(given: dict[str, Any], width: int = 80, marks: Marks | None = None) -> list[str]:
    return [text for _, text in rollout_show.drawn(given, width, marks or Marks())]


def test_it_shows_steps_rates_evidence_and_decisions() -> None:
    shown = "\n".join(texts(answer(*[look(float(at), at // 20, 10.0 ** (at / 20)) for at in range(60)])))
    assert "rollout 3 of orders 1.0 → 1.1: rolled back: more errors" in shown
    assert "canary: 1 % > [5 %] > 100 %" in shown
    assert "error rate (─ the permitted 0.05)" in shown
    assert "5.0% ─" in shown
    assert "300 ─" in shown
    assert "50% of 80%" in shown
    assert "conversion.e: 1.5" in shown
    assert "5 % of the users to 1.1" in shown
    assert "no sign of harm" in shown


def test_the_bake_is_drawn_under_the_users() -> None:
    found = answer(*[{**look(float(at)), "share": 1.0 if at >= 30 else 0.05} for at in range(60)])
    assert not [text for text in texts(found) if text.lstrip().startswith("bake")]
    found["rollout"] = {**ROLLOUT, "state": "promoted", "ended_at": 30.0}
    users, baked = (next(text for text in texts(found) if text[:LEFT].strip() == name) for name in ("users", "bake"))
    promoted = baked.index("█")
    assert users[promoted:] == baked[promoted:] == "█" * (80 - promoted)
    assert 40 < promoted < 50, "half of the time"


def test_the_newest_decisions_are_shown_and_how_many_came_before() -> None:
    shown = texts(answer(look(0.0), decisions=20))
    assert "  … 8 before" in shown
    assert sum("of the users to" in text for text in shown) == rollout_show.DECISIONS


def test_a_rollout_that_no_user_has_met() -> None:
    assert "no look at it is kept: no user has met it" in texts(answer())


@given(
    width=st.integers(12, 120),
    count=st.integers(0, 30),
    errors=st.integers(0, 10),
    e=st.floats(0.0, 1e300),
    plain=st.booleans(),
)
def test_nothing_is_wider_than_the_terminal(width: int, count: int, errors: int, e: float, plain: bool) -> None:
    marks = ASCII if plain else Marks()
    shown = texts(answer(*[look(float(at), errors, e) for at in range(count)]), width, marks)
    assert max(map(len, shown)) <= width
    if plain:
        assert all(ord(letter) < 128 or letter == "→" for text in shown for letter in text)


@given(
    values=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20),
    limit=st.floats(0, 1e6),
    height=st.integers(2, 9),
)
def test_every_chart_has_its_height_and_width(values: list[tuple[float, float]], limit: float, height: int) -> None:
    points = sorted(values)
    rows = draw.chart(
        {"x": points}, limit, 60, height=height, marks={"x": "x"}, limit_mark="-", text=lambda value: f"{value:.0g}"
    )
    assert len(rows) == height
    assert all(len(row) <= max(60, LEFT + 60) for row in rows)
    assert any("x" in row[LEFT:] for row in rows)


@pytest.mark.parametrize(("value", "filled"), [(0.0, 0), (1.0, 0), (math.sqrt(300), 20), (300.0, 40), (1e9, 40)])
def test_the_meter_is_logarithmic(value: float, filled: int) -> None:
    assert draw.meter(value, 300.0, 40, "#").count("#") == filled


def test_a_strip_keeps_the_last_height_where_nothing_was_seen() -> None:
    assert draw.strip([(0.0, 0.0), (9.0, 1.0)], LEFT + 10, "_#") == "_________#"
