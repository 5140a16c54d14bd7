"""The console in a real browser: every page and act, by keyboard, on a phone, for those who cannot see, and through a
death of the control plane."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser_kit import Browser, browser
from tests.e2e.kit import System, until
from tests.ports import free_port

PAGES = {
    "/": "Fleet",
    "/rollouts": "web",
    "/incidents": "Incidents",
    "/topology": "Topology",
    "/instances": "Instances",
    "/traces": "Traces",
    "/configuration": "Configuration of web",
    "/objectives": "Objectives",
}


CROWD = """
alerts:
  rules:
    crowd: {metric: gapless_instances_wanted, above: 2, severity: P1, do: [scale], act: act, summary: "{service} grows"}
"""
"""What is done about an alert, to be undone: more than two instances are followed by one more."""


class Shown:
    """A system with its console, under load, and a browser."""

    def __init__(self, system: System, chrome: Browser, port: int) -> None:
        self.system, self.chrome = system, chrome
        self.url = f"http://127.0.0.1:{port}"

    def open(self, path: str, **more: object) -> int:
        return int(self.chrome.do("open", url=self.url + path, **more))

    def wait(self, text: str, where: str = "body") -> None:
        self.chrome.do("wait", text=text, where=where)

    def free(self) -> None:
        """Ends the rollout that a test before has left."""
        rollout = self.system.status()["services"]["web"]["rollout"]
        if rollout and rollout["state"] not in ("promoted", "rolled back"):
            assert self.system.run("rollback", "web").returncode in (0, 15)
            self.system.ended_rollout()

    def deploy(self, name: str) -> None:
        self.free()
        assert self.system.deploy(name, "", "--detach").returncode == 0

    def act(self, name: str, outcome: str, why: str, within: str = "", instances: str = "") -> None:
        """By mouse: asked once, then its outcome. `within`: words of the entry of the time line whose button it is."""
        where = "#r-days li" if within else "body"
        self.chrome.do("click", name=name, where=where, within=within)
        if instances:
            self.chrome.do("fill", label="Instances", role="spinbutton", text=instances)
        self.chrome.do("fill", label="Why", text=why)
        self.chrome.do("press", keys=["Enter"])
        self.wait(outcome, "#toasts")

    def wanted(self) -> int:
        return sum(self.system.status()["services"]["web"]["wanted"].values())

    def settings(self) -> Any:
        return self.system.json("config", "get", "web")["values"]

    def quiet(self) -> None:
        """Nothing was refused by the policy, and no script has failed."""
        assert self.chrome.do("troubles") == []


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    directory = Path(tempfile.mkdtemp(prefix="g-"))
    system = System(directory)
    port = next(port for port in iter(free_port, None) if port != system.port)
    file = system.file.read_text().replace("hold: 500ms", "hold: 10m").replace("patience: 60s", "patience: 1h")
    file = file.replace("[30%, 100%]", "[30%, 50%, {share: 60%, approve: true}, 100%]")
    system.file.write_text(f'console: {{listen: "127.0.0.1:{port}"}}\n{file}{CROWD}')
    with browser() as chrome:
        try:
            system.up()
            with system.load(rate=20):
                yield Shown(system, chrome, port)
        finally:
            system.down()
            shutil.rmtree(directory, ignore_errors=True)


def test_every_page_is_whole_live_and_sound(shown: Shown) -> None:
    for path, title in PAGES.items():
        assert shown.open(path) == 200
        shown.wait(title, "h1")
        shown.wait("live", "#live")
        assert shown.chrome.do("axe") == [], path
        shown.quiet()


def test_in_the_dark_too(shown: Shown) -> None:
    for path in PAGES:
        shown.open(path, theme="dark")
        shown.wait("live", "#live")
        assert shown.chrome.do("axe") == [], path


def test_on_a_phone_nothing_is_cut_off(shown: Shown) -> None:
    for path in PAGES:
        shown.open(path, width=360, height=740)
        shown.wait("live", "#live")
        assert shown.chrome.do("wide") <= 0, path
    shown.quiet()


def test_what_happens_is_shown_without_asking_and_nothing_jumps(shown: Shown) -> None:
    shown.open("/")
    shown.wait("live", "#live")
    assert shown.chrome.do("shift") < 0.1


def test_a_rollout_by_mouse_from_its_begin_to_its_end(shown: Shown) -> None:
    shown.open("/rollouts/web")
    shown.wait("has had no rollout yet")
    shown.deploy("v2")
    shown.wait("30 %", ".steps .now")
    assert shown.chrome.do("axe") == []
    for name, outcome in (("Pause", "Paused"), ("Resume", "Resumed"), ("Abort", "Going back")):
        shown.chrome.do("click", name=name)
        shown.chrome.do("fill", label="Why", text=f"{name}, by mouse")
        shown.chrome.do("press", keys=["Enter"])
        shown.wait(outcome, "#toasts")
        shown.wait(f"{name}, by mouse", "#r-decisions")
        if name != "Abort":
            assert shown.system.json("rollout", "web")["paused"] is (name == "Pause")
    shown.wait("rolled back", "#r-steps")
    assert shown.system.ended_rollout()["state"] == "rolled back"
    shown.quiet()


def test_an_act_that_fails_says_why_and_what_to_do(shown: Shown) -> None:
    shown.deploy("v3")
    shown.open("/rollouts/web")
    shown.wait("30 %", ".steps .now")
    shown.chrome.do("click", name="Abort")
    assert shown.system.run("rollback", "web").returncode == 0
    shown.system.ended_rollout()
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("no rollout of web is under way", "#ask-outcome")
    shown.wait("gapless rollout", "#ask-outcome")
    shown.chrome.do("click", name="Cancel")
    shown.chrome.do("troubles")  # the refusal itself is an entry in the browser's console


def test_promote_and_roll_back_by_keyboard_alone(shown: Shown) -> None:
    shown.deploy("v4")
    shown.open("/")
    shown.wait("live", "#live")
    shown.chrome.do("press", keys=["Tab"])
    assert "Skip to the content" in shown.chrome.do("focused")
    shown.chrome.do("press", keys=["g", "r"])
    shown.wait("30 %", ".steps .now")
    act(shown, "promote", "Promoted")
    shown.wait("promoted", "#r-steps")
    act(shown, "rollback", "Rolling back")
    shown.wait("begun", "#r-head")
    shown.system.ended_rollout()
    shown.chrome.do("press", keys=["?"])
    shown.wait("next, previous row", "#help[open]")
    shown.chrome.do("press", keys=["Escape"])
    shown.chrome.do("gone", text="next, previous row", where="#help[open]")
    shown.chrome.do("press", keys=["d"])
    assert shown.chrome.do("theme") == "dark"
    shown.chrome.do("press", keys=["d"])
    shown.quiet()


def act(shown: Shown, verb: str, outcome: str) -> None:
    for _ in range(60):
        shown.chrome.do("press", keys=["Tab"])
        if f'data-act="{verb}"' in shown.chrome.do("focused"):
            break
    else:
        raise AssertionError(f"{verb} cannot be reached by Tab")
    assert shown.chrome.do("outlined")
    shown.chrome.do("press", keys=["Enter", "w", "h", "y", "Enter"])
    shown.wait(outcome, "#toasts")


def test_rows_are_walked_by_j_and_k(shown: Shown) -> None:
    shown.open("/instances")
    shown.wait("live", "#live")
    shown.chrome.do("press", keys=["j"])
    first = shown.chrome.do("focused")
    shown.chrome.do("press", keys=["j"])
    assert shown.chrome.do("focused") != first
    shown.chrome.do("press", keys=["k", "Enter"])
    shown.wait("Log", "h2")
    shown.wait("ready", "#r-facts")


def test_restarting_in_place_and_the_log_of_an_instance(shown: Shown) -> None:
    shown.free()
    shown.open("/instances")
    shown.chrome.do("click", name="Restart in place")
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("Restarted in place:", "#toasts")
    instance = next(i["id"] for i in shown.system.status()["services"]["web"]["instances"] if i["phase"] == "ready")
    shown.open(f"/instances/{instance}")
    shown.wait("Log", "h2")
    assert shown.chrome.do("axe") == []


def test_the_time_line_is_filtered(shown: Shown) -> None:
    shown.open("/incidents")
    kind = re.sub(r"\s+", " ", shown.chrome.do("text", where="#r-kinds a:nth-child(2)"))
    shown.chrome.do("click", name=kind, role="link")
    shown.wait(kind, "#r-kinds a[aria-current]")
    assert "kind=" in shown.chrome.do("url")


def test_steps_are_passed_and_approved_by_hand(shown: Shown) -> None:
    shown.deploy("v6")
    shown.open("/rollouts/web")
    for name, outcome, share in (
        ("Next step", "Passed by hand", "50 %"),
        ("Approve", "Approved", "50 %"),
        ("Next step", "Passed by hand", "60 %"),
    ):
        shown.chrome.do("click", name=name)
        shown.chrome.do("fill", label="Why", text=f"{name}, before {share}")
        shown.chrome.do("press", keys=["Enter"])
        shown.wait(outcome, "#toasts")
        shown.wait(f"{name}, before {share}", "#r-decisions")
        shown.wait(share, ".steps .now")
    shown.quiet()


def test_the_configuration_goes_back(shown: Shown) -> None:
    shown.free()
    for value in ("5", "7"):
        settings = (f"price.max={value}", "--why", f"at most {value}", "--unchecked")
        done = shown.system.run("config", "set", "web", *settings)
        assert done.returncode == 0, done.stderr
    shown.open("/configuration/web")
    shown.wait("at most 7", "#r-configuration")
    assert shown.chrome.do("axe") == []
    shown.chrome.do("click", name="Compare")
    shown.wait("price.max: 5 → 7", "#compared")
    assert shown.chrome.do("axe") == []
    shown.chrome.do("click", name="Go back to 1")
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("In force: revision 3.", "#toasts")
    shown.wait("revision 3", "#force + p")
    assert shown.chrome.do("text", where=".values dd") == "5"
    shown.quiet()


def test_an_alert_is_acknowledged(shown: Shown) -> None:
    assert shown.system.run("alert", "test", "web", "--severity", "P2").returncode == 0
    shown.open("/incidents")
    shown.wait("Firing now", "h2")
    assert shown.chrome.do("axe") == []
    shown.chrome.do("click", name="Acknowledge")
    shown.chrome.do("fill", label="Why", text="only a test")
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("Acknowledged: test.", "#toasts")
    shown.wait("acknowledged by", "#r-open")
    shown.chrome.do("click", name="Silence")
    shown.chrome.do("fill", label="Why", text="a drill")
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("Silenced for 2h", "#toasts")
    shown.open("/incidents")
    shown.wait("a drill", "[aria-labelledby=silences]")
    assert shown.chrome.do("axe") == []
    shown.chrome.do("click", name="End")
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("The silence has ended", "#toasts")
    shown.quiet()


def test_a_service_is_scaled_and_what_is_done_about_that_undone(shown: Shown) -> None:
    shown.free()
    shown.open("/instances")
    shown.act("Scale", "Scaled: web gets 3 instances.", "a sale", instances="3")
    shown.wait("web-", "#group-web tbody tr:nth-child(3)")
    shown.open("/incidents")
    shown.wait("web grows", "#r-open h2")
    shown.wait("(done)", ".line-of-time")
    assert shown.wanted() == 4
    assert shown.chrome.do("axe") == []
    file = shown.chrome.do("download", name="Post-mortem, a draft")
    assert file["name"].startswith("post-mortem-")
    assert "scale web from 2 to 3 instances" in file["text"]
    shown.act("Undo", "Undone: ", "it was a drill", within="(done)")
    shown.wait("(undone)", ".line-of-time")
    until(lambda: shown.wanted() == 3, "as before the action", shown.system.output)
    shown.quiet()


def test_a_change_is_undone(shown: Shown) -> None:
    shown.free()
    for value in ("6", "8"):
        before = shown.settings()
        done = shown.system.run("config", "set", "web", f"price.max={value}", "--why", "dearer", "--unchecked")
        assert done.returncode == 0, done.stderr
    shown.open("/incidents")
    shown.act("Undo", "Undone: change", "too dear", within="6 → 8")
    shown.wait("undone by change", ".line-of-time")
    assert shown.settings() == before
    shown.quiet()


def test_a_trial_of_a_configuration_is_ended(shown: Shown) -> None:
    before = shown.settings()
    settings = ("price.max=9", "--stage", "10%", "--why", "a trial", "--unchecked", "--detach")
    done = shown.system.run("config", "set", "web", *settings)
    assert done.returncode == 0, done.stderr
    shown.open("/configuration/web")
    shown.wait("being tried", "#r-configuration")
    assert shown.chrome.do("axe") == []
    shown.act("End the trial", "In force: revision", "enough seen")
    shown.chrome.do("gone", text="being tried", where="#r-configuration .sentence")
    assert shown.settings() == before
    shown.quiet()


def test_traces_are_filtered_and_opened(shown: Shown) -> None:
    shown.open("/traces")
    shown.chrome.do("click", name="failed", role="link")
    shown.wait("failed", "#r-which a[aria-current]")
    assert shown.chrome.do("url").endswith("?only=failed")
    shown.chrome.do("click", name="all", role="link")
    shown.wait("all", "#r-which a[aria-current]")
    shown.chrome.do("click", name="gateway GET", role="link")
    shown.wait("took", "#r-trace header")
    assert shown.chrome.do("count", where=".waterfall li") >= 1
    assert shown.chrome.do("axe") == []
    shown.quiet()


def test_the_page_lives_through_a_death_of_the_control_plane(shown: Shown) -> None:
    shown.open("/")
    shown.wait("live", "#live")
    shown.system.kill_control()
    shown.wait("stale since", "#live")
    shown.chrome.do("troubles")
    shown.system.start_up()
    until(shown.system.ready, "ready again", shown.system.output)
    shown.wait("live", "#live")
    shown.deploy("v5")
    shown.wait("under way", "#r-menu")
    shown.chrome.do("go", url=shown.url + "/rollouts/web")
    shown.wait("30 %", ".steps .now")
    shown.chrome.do("click", name="Abort")
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("Going back", "#toasts")
    shown.system.ended_rollout()


def test_with_a_token_one_logs_in_acts_under_a_name_and_logs_out(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLESS_CONSOLE_TOKEN", "open sesame")
    shown.system.kill_control()
    shown.system.start_up("--console", shown.url.replace("http://127.0.0.1", "0.0.0.0"))
    until(shown.system.ready, "ready beyond loopback", shown.system.output)
    shown.open("/incidents")
    shown.wait("Log in", "h1")
    assert shown.chrome.do("axe") == []
    log_in(shown, "open barley")
    shown.wait("That is not the token", "[role=alert]")
    log_in(shown, "open sesame")
    shown.wait("Incidents", "h1")
    shown.wait("live", "#live")
    shown.chrome.do("go", url=shown.url + "/instances")
    shown.chrome.do("click", name="Restart in place")
    shown.chrome.do("press", keys=["Enter"])
    shown.wait("Restarted in place:", "#toasts")
    assert "morgiana" in [change["who"] for change in shown.system.json("changes")]
    shown.chrome.do("click", name="Log out")
    shown.wait("Log in", "h1")
    shown.open("/instances")
    shown.wait("Log in", "h1")


def log_in(shown: Shown, token: str) -> None:
    shown.chrome.do("fill", label="Token", text=token)
    shown.chrome.do("fill", label="Your name", text="morgiana")
    shown.chrome.do("press", keys=["Enter"])
