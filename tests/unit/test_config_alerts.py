"""`alerts:` and `notify:` of gapless.yaml: what they come to, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless.config import System, load
from gapless.core.errors import ConfigError
from gapless.core.model.alert import ActionKind, AlertPolicy, Mode, Severity
from gapless.core.model.notice import NotifyPolicy, Topic

SERVICES = "system: shop\nservices: {web: {app: 'web:app'}}\n"


def read(tmp_path: Path, text: str) -> System:
    (tmp_path / "gapless.yaml").write_text(SERVICES + text)
    return load(tmp_path)


def test_without_a_word_nothing_is_done_and_nobody_is_told(tmp_path: Path) -> None:
    system = read(tmp_path, "")
    assert system.alerts == AlertPolicy()
    assert system.alerts.act is Mode.PROPOSE
    assert system.notify == NotifyPolicy()


def test_rules_limits_and_modes(tmp_path: Path) -> None:
    text = """
alerts:
  act: off
  alertmanager: http://127.0.0.1:9093/
  limits: {most: 1, within: 2h}
  rules:
    paid:
      severity: P0
      services: [web]
      metric: orders_paid_total
      of: rate
      per: orders_total
      below: 95%
      recover: 0.97
      for: 2m
      do: [page, roll back]
      act: act
"""
    policy = read(tmp_path, text).alerts
    (rule,) = policy.rules
    assert (policy.act, policy.most, policy.within_s) == (Mode.OFF, 1, 7200.0)
    assert policy.alertmanager == ("http://127.0.0.1:9093",)
    assert (rule.name, rule.severity, rule.below, rule.for_s, rule.act) == ("paid", Severity.P0, 0.95, 120.0, Mode.ACT)
    assert rule.recover == 0.97
    assert rule.actions == (ActionKind.PAGE, ActionKind.ROLL_BACK)


def test_channels_and_routes(tmp_path: Path) -> None:
    text = """
notify:
  channels:
    hook: {webhook: "https://x.example/y", secret: "secret:env:KEY"}
    mail: {email: {to: ops@x.example, from: g@x.example, server: "smtp://mail:25"}}
    pager: {command: ./page --now}
  routes:
    - {to: [pager, mail], what: alerts, severity: [P0]}
"""
    policy = read(tmp_path, text).notify
    hook, mail, pager = policy.channels
    assert (hook.secret, mail.mail_to, pager.command) == ("secret:env:KEY", ("ops@x.example",), ("./page", "--now"))
    assert policy.routes[0].what == (Topic.ALERTS,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alerts: {rules: {x: {metric: m}}}", "exactly one of `above`, `below` and `absent`"),
        ("alerts: {rules: {x: {metric: m, above: 1, over: 30h}}}", "metrics are kept for 24h"),
        ("alerts: {rules: {x: {metric: m, above: lots}}}", "not a number"),
        ("alerts: {rules: {x: {metric: m, above: 1, services: [wbe]}}}", 'there is no service "wbe"'),
        ("alerts: {rules: {x: {metric: m, above: 1, do: [explode]}}}", "is none of"),
        ("notify: {channels: {x: {}}}", "exactly one of webhook, slack, email and command"),
        ("notify: {channels: {x: {webhook: 'ftp://x'}}}", "not a URL"),
        ("notify: {channels: {x: {webhook: 'http://x', secret: hunter2}}}", "a secret does not stand in this file"),
        ("notify: {channels: {x: {command: a}}, routes: [{to: y}]}", 'there is no channel "y"'),
        ("notify: {channels: {x: {command: a}}, routes: [{to: x, services: [b]}]}", 'there is no service "b"'),
        ("notify: {channels: {x: {email: {to: a@b, from: c@d, server: mail}}}}", "not a mail server"),
    ],
)
def test_mistakes_have_their_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert said in caught.value.what
    assert "gapless.yaml:3:" in caught.value.what
    assert "hunter2" not in caught.value.what
