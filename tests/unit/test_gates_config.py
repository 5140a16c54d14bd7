"""`gates:`, `mirror:` and `preflight:` of gapless.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless.config import load
from gapless.core import codec
from gapless.core.errors import ConfigError
from gapless.core.model import GateKind, RolloutPolicy
from gapless.core.model.gates import CREDENTIALS, Waiver

FILE = """\
system: shop
services:
  orders:
    app: shop.orders:app
    routes: [/orders]
    rollout: {rollout}
"""


def policy(tmp_path: Path, rollout: str) -> RolloutPolicy:
    (tmp_path / "gapless.yaml").write_text(FILE.replace("{rollout}", rollout))
    return load(tmp_path).services["orders"].rollout


def wrong(tmp_path: Path, rollout: str) -> str:
    with pytest.raises(ConfigError) as caught:
        policy(tmp_path, rollout)
    return caught.value.what


def test_a_bare_share_mirrors_safe_methods_without_credentials(tmp_path: Path) -> None:
    rule = policy(tmp_path, "{mirror: 10%}").mirror
    assert rule
    assert (rule.share, rule.methods, rule.strip, rule.compare) == (1_000, ("GET", "HEAD"), CREDENTIALS, True)
    assert not rule.unsafe


def test_unsafe_methods_are_asked_for_by_name(tmp_path: Path) -> None:
    rule = policy(tmp_path, "{mirror: {share: 1%, methods: [GET, POST], compare: false, credentials: []}}").mirror
    assert rule
    assert (rule.unsafe, rule.compare, rule.strip) == (("POST",), False, ())


def test_each_kind_of_gate_is_read(tmp_path: Path) -> None:
    gates = policy(
        tmp_path,
        """{gates: [
          {command: ./check}, {tests: [pytest, -q]}, {coverage: {file: c.xml, at_least: 75%}, limit: 5s},
          {security: {file: s.json, high: null, waivers: [{id: B101, until: 2027-01-31}]}},
          {name: quick, smoke: {for: 3s}}, {contract: {}}]}""",
    ).gates
    assert [(gate.name, gate.kind) for gate in gates] == [
        ("command", GateKind.COMMAND),
        ("tests", GateKind.TESTS),
        ("coverage", GateKind.COVERAGE),
        ("security", GateKind.SECURITY),
        ("quick", GateKind.SMOKE),
        ("contract", GateKind.CONTRACT),
    ]
    assert gates[2].limit_s == 5.0
    assert gates[3].security
    assert gates[3].security.high is None
    assert gates[3].security.waivers == (Waiver(id="B101", until_at=1_801_440_000.0),)  # 2027-02-01T00:00Z


@pytest.mark.parametrize(
    ("rollout", "told"),
    [
        ("{gates: [{command: a, smoke: {}}]}", "this one is command and smoke"),
        ("{gates: [{limit: 3s}]}", "this one is none"),
        ("{gates: [{command: a}, {command: b}]}", "two gates are called command"),
        ("{gates: [{name: mirror, command: a}]}", "mirror is the name of the mirror"),
        ("{gates: [{coverage: {file: c.xml, at_least: 80}}]}", "not a share"),
        ("{gates: [{security: {file: s, waivers: [{id: B1}]}}]}", "until: this key is missing"),
        ("{mirror: {share: 10%, methods: [get]}}", "in capitals"),
        ("{mirror: 0%}", "above 0%"),
        ("{preflight: maybe}", "none of"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, rollout: str, told: str) -> None:
    what = wrong(tmp_path, rollout)
    assert told in what
    assert "gapless.yaml:6: services.orders.rollout." in what


def test_a_service_without_routes_cannot_be_mirrored(tmp_path: Path) -> None:
    (tmp_path / "gapless.yaml").write_text(
        FILE.replace("    routes: [/orders]\n", "").replace("{rollout}", "{mirror: 5%}")
    )
    with pytest.raises(ConfigError, match="leads none to a service without routes"):
        load(tmp_path)


def test_a_policy_travels_through_the_store_and_older_records_still_load(tmp_path: Path) -> None:
    found = policy(tmp_path, "{mirror: 10%, gates: [{tests: [pytest]}, {smoke: {}}], preflight: block}")
    assert codec.decode(codec.encode(found), RolloutPolicy) == found
    assert codec.decode(b'{"hold_s": 5.0}', RolloutPolicy).gates == ()


def test_the_example_of_the_page_is_accepted(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/gates.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "gapless.yaml").write_text(example)
    assert len(load(tmp_path).services["orders"].rollout.gates) == 6
