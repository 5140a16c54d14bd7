"""What the words of `gapless deploy` come to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from gapless.cli.deploy import begin_at, orders_of
from gapless.core.errors import ConfigError

NOW = datetime(2026, 11, 30, 12, 0).timestamp()  # noqa: DTZ001 the clock on the wall
HERE = str(Path.cwd())


def order(service: str, version: str = "", source: str = "", **env: str) -> dict[str, object]:
    return {"service": service, "version": version, "source": source, "env": env}


def test_one_service_or_several() -> None:
    assert orders_of(["orders"], "1.5", ["./b"], ["A=1=2"]) == [order("orders", "1.5", f"{HERE}/b", A="1=2")]
    assert orders_of(["orders=1.5"], "", ["orders=./b"], []) == [order("orders", "1.5", f"{HERE}/b")]
    assert orders_of(["orders=1.5", "payment"], "", ["payment=/p"], []) == [
        order("orders", "1.5"),
        order("payment", "", "/p"),
    ]


@pytest.mark.parametrize(
    ("services", "release", "sources", "env", "said"),
    [
        (["orders=1.5"], "1.6", [], [], "--release is for one service without a version"),
        (["orders", "payment"], "1.6", [], [], "--release is for one service"),
        (["orders", "payment"], "", ["./b"], [], "does not say whose source"),
        (["orders", "payment"], "", ["stock=./b"], [], "does not say whose source"),
        (["orders", "payment"], "", [], ["A=1"], "--env is for one service"),
        (["orders"], "", [], ["A"], "--env A is not KEY=VALUE"),
    ],
)
def test_what_is_not_clear_is_refused(
    services: list[str], release: str, sources: list[str], env: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        orders_of(services, release, sources, env)


def test_when_a_deploy_is_to_begin() -> None:
    assert begin_at("open", NOW) == 0.0
    assert begin_at("18:30", NOW) == NOW + 6.5 * 3_600
    assert begin_at("09:00", NOW) == NOW + 21 * 3_600, "a time that is over today is meant for tomorrow"
    assert begin_at("2026-12-01 12:00", NOW) == NOW + 86_400
    for wrong, said in (("soon", "is no time"), ("2026-11-29 12:00", "is over"), ("25:00", "is no time")):
        with pytest.raises(ConfigError, match=said):
            begin_at(wrong, NOW)
