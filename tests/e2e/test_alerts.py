"""A release that turns bad behind a real Envoy is alerted, told to a receiver, brought back, and blamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import System, until
from tests.integration.notify_kit import receiving

APP = """
import os

async def app(scope, receive, send):
    status = 500 if os.path.exists({switch!r}) else 200
    await send({{"type": "http.response.start", "status": status, "headers": []}})
    await send({{"type": "http.response.body", "body": b"v2"}})
"""
ALERTS = """
alerts: {{act: act}}
notify: {{channels: {{hook: {{webhook: "{url}"}}}}}}
"""


@pytest.mark.timeout(300)
def test_a_release_that_turns_bad_after_its_promotion_is_alerted_and_brought_back(tmp_path: Path) -> None:
    with receiving() as receiver:
        system = System(tmp_path)
        system.file.write_text(system.file.read_text() + ALERTS.format(url=receiver.url))
        try:
            system.up()
            switch, source = tmp_path / "broken", tmp_path / "v2"
            source.mkdir()
            (source / "web.py").write_text(APP.format(switch=str(switch)))
            with system.load(40):
                deployed = system.run("deploy", "web", "--release", "v2", "--from", str(source))
                assert deployed.returncode == 0, deployed.stderr
                switch.touch()
                until(lambda: bool(alerts(system)), "an alert", system.output)
                until(lambda: action(system)["state"] == "done", "the rollback", system.output)
                until(lambda: system.status()["services"]["web"]["stable"] != "v2", "the old release", system.output)
                until(lambda: heard(receiver, "firing"), "a notice", system.output)
            assert "roll back rollout" in action(system)["what"]
            until(lambda: first_suspect(system).startswith("rollout 1 of web"), "the culprit", system.output)
            (incident,) = system.json("incidents")
            exported = system.run("incident", str(incident["number"]), "export").stdout
            assert "## Suspected cause" in exported
            assert "rollout 1 of web" in exported
            survives_a_kill(system, receiver)
        finally:
            system.down()


def survives_a_kill(system: System, receiver: Any) -> None:
    """A control plane that is killed while a receiver has a notice and does not say so: nothing is lost, and that one
    notice comes twice at most, with the same id."""
    receiver.hang_at = b"scale web"  # the end of the alert may be told at any moment
    receiver.hang.set()
    until(lambda: system.run("scale", "web", "3").returncode == 0, "a change", system.output)
    until(lambda: any("scale web" in each.json["title"] for each in receiver.heard), "its notice", system.output)
    system.kill_control()
    receiver.hang.clear()
    system.up()
    assert system.run("scale", "web", "2", "--why", "after the kill").returncode == 0
    until(lambda: "after the kill" in [each.json["why"] for each in receiver.heard], "the next notice", system.output)
    ids = [heard.headers["x-gapless-id"] for heard in receiver.heard]
    twice = {each for each in ids if ids.count(each) > 1}
    titles = {heard.json["title"] for heard in receiver.heard if heard.headers["x-gapless-id"] in twice}
    assert all("scale web" in title for title in titles), titles
    numbers = [int(each.rpartition("-")[2]) for each in dict.fromkeys(ids) if "-change-" in each]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "none is lost, and they come in order"


def alerts(system: System) -> list[Any]:
    found: list[Any] = system.told("/v1/alerts")
    return [alert for alert in found if alert["rule"] == "errors" and alert["state"] == "firing"]


def action(system: System) -> Any:
    found = [each for each in system.json("alerts", "--actions") if each["kind"] == "roll back"]
    return found[-1] if found else {"state": "", "what": ""}


def first_suspect(system: System) -> str:
    """Of the newest incident."""
    suspects = [each["suspects"] for each in system.json("incidents")][:1]
    return str(suspects[0][0]["what"]) if suspects and suspects[0] else ""


def heard(receiver: Any, what: str) -> bool:
    return any(what == each.json["state"] for each in receiver.heard)
