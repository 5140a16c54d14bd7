"""`rollout:` in gapless.yaml: strategies, steps with rules, windows and freezes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gapless.config import FILE_NAME, System, load
from gapless.core.errors import ConfigError
from gapless.core.model import (
    BUCKETS,
    Amount,
    Calendar,
    Freeze,
    JudgedBy,
    Opening,
    RolloutPolicy,
    Service,
    StepRule,
    Strategy,
)


def read(directory: Path, service: str, system: str = "", kind: str = "app: a:b") -> System:
    path = directory / FILE_NAME
    lines = "".join(f"      {line}\n" for line in service.splitlines())
    path.write_text(f"system: shop\n{system}services:\n  orders:\n    {kind}\n    rollout:\n{lines}")
    return load(path)


def orders(directory: Path, service: str, system: str = "", kind: str = "app: a:b") -> Service:
    return read(directory, service, system, kind).services["orders"]


def policy(directory: Path, service: str) -> RolloutPolicy:
    return orders(directory, service).rollout


def complaint(directory: Path, service: str, system: str = "", kind: str = "app: a:b") -> str:
    with pytest.raises(ConfigError) as caught:
        read(directory, service, system, kind)
    return caught.value.what


def test_steps_may_have_rules_of_their_own(tmp_path: Path) -> None:
    steps = (
        "[1%, {share: 5%, hold: 10m}, {share: 25%, approve: true}, {share: 50%, pause: true}, {share: 100%, pause: 5m}]"
    )
    got = policy(tmp_path, f"steps: {steps}")
    assert got.steps == (100, 500, 2_500, 5_000, BUCKETS)
    assert got.rules == (
        StepRule(weight=500, hold_s=600.0),
        StepRule(weight=2_500, approve=True),
        StepRule(weight=5_000, pause_s=0.0),
        StepRule(weight=BUCKETS, pause_s=300.0),
    )
    assert policy(tmp_path, "steps: [{share: 50%, pause: false, approve: false}, 100%]").rules == ()


def test_how_instances_are_replaced(tmp_path: Path) -> None:
    got = policy(tmp_path, "strategy: rolling\nsurge: 25%\nunavailable: 2")
    assert (got.surge, got.unavailable) == (Amount(share=0.25), Amount(count=2))
    assert policy(tmp_path, "strategy: rolling") == RolloutPolicy(strategy=Strategy.ROLLING)
    assert policy(tmp_path, "strategy: rolling\nsurge: 0%\nunavailable: 1").surge == Amount()


def test_the_old_pool_of_blue_green_is_kept_for_a_while(tmp_path: Path) -> None:
    assert policy(tmp_path, "strategy: blue-green").keep_s == 600.0
    assert policy(tmp_path, "strategy: blue-green\nkeep: 0s").keep_s == 0.0
    got = policy(tmp_path, "keep: 2m\nbake: 15m")
    assert (got.strategy, got.keep_s, got.bake_s) == (Strategy.CANARY, 120.0, 900.0)


@pytest.mark.parametrize(
    ("kind", "written", "judged_by", "samples"),
    [
        ("app: a:b", "hold: 1s", JudgedBy.REQUESTS, 100),
        ("app: a:b", "judged_by: health", JudgedBy.HEALTH, 0),
        ("command: [./x]", "hold: 1s", JudgedBy.HEALTH, 0),
        ("command: [./x]", "judged_by: health", JudgedBy.HEALTH, 0),
        ("command: [./x]\n    routes: [/]", "hold: 1s", JudgedBy.REQUESTS, 100),
    ],
)
def test_what_nobody_counts_is_judged_by_its_health(
    tmp_path: Path, kind: str, written: str, judged_by: JudgedBy, samples: int
) -> None:
    got = orders(tmp_path, written, kind=kind).rollout
    assert (got.judged_by, got.min_samples) == (judged_by, samples)


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


def test_windows_and_freezes_of_the_system_and_of_the_service(tmp_path: Path) -> None:
    system = (
        "rollout:\n  zone: Europe/Berlin\n"
        '  windows: ["mon-thu 09:00-16:30", fri, "22:00-04:00", {days: [sat, sun], hours: "10:00-12:00"}, "fri-mon"]\n'
        "  freeze: [{from: 2026-12-18, until: 2027-01-03, reason: year's end}]\n"
    )
    service = 'zone: Asia/Tokyo\nfreeze: [{from: "2026-11-27 18:00", until: "2026-11-30T06:00Z", reason: sale}]'
    ours, own = orders(tmp_path, service, system).calendars
    assert ours == Calendar(
        owner="the system",
        zone="Europe/Berlin",
        openings=(
            Opening(days=(0, 1, 2, 3), from_min=540, until_min=990),
            Opening(days=(4,)),
            Opening(from_min=22 * 60, until_min=4 * 60),
            Opening(days=(5, 6), from_min=600, until_min=720),
            Opening(days=(0, 4, 5, 6)),
        ),
        freezes=(Freeze(from_at=at(2026, 12, 17, 23), until_at=at(2027, 1, 3, 23), reason="year's end"),),
    )
    assert own == Calendar(
        owner="orders",
        zone="Asia/Tokyo",
        freezes=(Freeze(from_at=at(2026, 11, 27, 9), until_at=at(2026, 11, 30, 6), reason="sale"),),
    )
    assert orders(tmp_path, "windows: [mon]", "rollout: {zone: Asia/Tokyo}\n").calendars[0].zone == "Asia/Tokyo"
    assert orders(tmp_path, "hold: 1s").calendars == ()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("surge: 0\nunavailable: 0%", "rollout: surge and unavailable are both 0: no instance could be replaced"),
        ("surge: 101%", 'rollout.surge: "101%": neither a number of instances nor a share'),
        ("surge: -1", 'rollout.surge: "-1": neither a number of instances nor a share'),
        ("steps: [{hold: 1s}, 100%]", "rollout.steps[0].share: this key is missing"),
        ("steps: [{share: 5%, pause: soon}, 100%]", 'rollout.steps[0].pause: "soon": not a duration'),
        ("steps: [{share: 5%, pause: 0s}, 100%]", 'rollout.steps[0].pause: "0s": a pause takes some time'),
        ("steps: [{share: 5%, aprove: true}, 100%]", 'steps[0].aprove: unknown key; did you mean "approve"?'),
        ("zone: Mars/Base", 'rollout.zone: "Mars/Base": this machine knows no such time zone'),
        ("zone: ../etc/passwd", 'rollout.zone: "../etc/passwd": not a time zone'),
        ("windows: [someday]", 'rollout.windows[0]: "someday": "someday" is no day and no span of days'),
        ('windows: ["25:00-26:00"]', 'rollout.windows[0]: "25:00-26:00": not hours of a day'),
        ('windows: ["mon 9-17"]', 'windows[0]: "mon 9-17": "mon 9-17" is no day'),
        ('windows: [{hours: "09:00-09:00"}]', "it ends when it begins"),
        ("freeze: [{from: 2026-12-18, until: 2026-12-17, reason: x}]", "rollout.freeze[0]: it ends before it begins"),
        ("freeze: [{from: 2026-12-18, until: 2026-12-19}]", "rollout.freeze[0].reason: this key is missing"),
        ("freeze: [{from: 2026-12-18, until: 9999-12-31, reason: x}]", 'freeze[0].until: "9999-12-31": not a date'),
        ("freeze: [{from: tomorrow, until: 2026-12-19, reason: x}]", 'freeze[0].from: "tomorrow": not a date'),
    ],
)
def test_so_is_a_wrong_rollout(tmp_path: Path, written: str, expected: str) -> None:
    assert expected in complaint(tmp_path, written)


def test_who_counts_nothing_cannot_be_judged_by_requests(tmp_path: Path) -> None:
    told = complaint(tmp_path, "judged_by: requests", kind="command: [./x]")
    assert "rollout.judged_by: nobody counts the requests of a command without routes; write health" in told
