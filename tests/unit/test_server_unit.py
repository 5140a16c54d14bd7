"""The systemd unit of a server."""

from __future__ import annotations

import pytest

from gapless.cli.export import systemd_unit
from gapless.core.errors import ConfigError
from gapless.server.systemd.unit import Unit, unit_text

UNIT = Unit("orders", "/opt/venv/bin/python", ["shop.orders:app", "--workers", "2"], "/srv/shop")


def keys(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def test_the_limits_of_systemd_are_wider_than_ours() -> None:
    told = keys(unit_text(UNIT._replace(start_s=60, drain_s=120)))
    assert (told["TimeoutStartSec"], told["TimeoutStopSec"]) == ("65", "125")


def test_reload_finds_the_server_where_it_is_started() -> None:
    told = keys(unit_text(UNIT))
    admin = "--admin unix:%t/orders/serve.sock"
    assert told["ExecStart"] == f"/opt/venv/bin/python -m gapless serve shop.orders:app --workers 2 {admin}"
    assert told["ExecReload"] == f"/opt/venv/bin/python -m gapless reload {admin}"
    assert told["RuntimeDirectory"] == "orders"


def test_an_admin_socket_of_ones_own_is_kept() -> None:
    told = keys(systemd_unit(["shop:app", "--admin", "unix:a.sock"], "", "", "/srv/shop"))
    assert told["ExecStart"].endswith("serve shop:app --admin unix:a.sock")
    assert told["ExecReload"].endswith("reload --admin unix:/srv/shop/a.sock")


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain-1.2", "plain-1.2"),
        ("two words", '"two words"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ("", '""'),
    ],
)
def test_words_come_back_as_they_were(word: str, written: str) -> None:
    told = keys(unit_text(UNIT._replace(options=["a:b", "--app-dir", word])))
    assert f" a:b --app-dir {written} --admin" in told["ExecStart"]


@pytest.mark.parametrize(
    "unit", [UNIT._replace(name="a/b"), UNIT._replace(options=["a\nb"]), UNIT._replace(directory="a\nb")]
)
def test_what_a_unit_cannot_carry_is_refused(unit: Unit) -> None:
    with pytest.raises(ConfigError):
        unit_text(unit)


def test_the_default_name_is_the_modules() -> None:
    assert "RuntimeDirectory=orders\n" in systemd_unit(["shop.orders:app"], "", "", "/srv")
