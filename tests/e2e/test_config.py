"""Live configuration of a whole system: obeyed without a restart, refused with its place, staged, taken back by itself,
and carried on with by the next control plane."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gapless.cli.client import ControlClient
from gapless.core.errors import GaplessError
from tests.e2e.kit import System, lost, until

APP = '''\
"""Answers its price, and who it is; `broken` makes it fail."""
import os

from pydantic import SecretStr

from gapless import Service
from gapless.config import Settings, live


class Shop(Settings):
    price: int = 3
    broken: bool = False
    password: SecretStr = SecretStr("")


settings = live(Shop, prefix="SHOP_")


async def answer(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    now = settings.current
    body = f"{now.price} {len(now.password.get_secret_value())} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 500 if now.broken else 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


app = Service(app=answer, settings=settings)


@settings.check
def cheap(before, after):
    if after.price > 100:
        raise ValueError("nobody pays that")
'''


@pytest.fixture
def system() -> Iterator[System]:
    found = System(Path(tempfile.mkdtemp(prefix="g-")))
    (found.directory / "v1" / "web.py").write_text(APP)
    yield found
    found.down()
    shutil.rmtree(found.directory)


def instances(system: System) -> dict[str, str]:
    """Addresses by id."""
    return {each["id"]: f"http://{each['address']}/" for each in system.status()["services"]["web"]["instances"]}


def ask(url: str) -> list[str]:
    """Price, length of the password and process of whoever answers."""
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.read().decode().split()
    except urllib.error.HTTPError as error:
        return error.read().decode().split()


def prices(system: System, known: dict[str, str]) -> list[str]:
    return [ask(url)[0] for url in known.values()]


def obeyed(system: System, known: dict[str, str], wanted: list[str]) -> None:
    """Within moments: a change answers as soon as it is written, or all have said that they obey."""
    until(lambda: prices(system, known) == wanted, f"the prices {wanted}", system.output)


def told(system: System, what: str = "") -> Any:
    """As the command line asks it, without starting a process for it."""
    return ControlClient(system.state).get(f"/v1/services/web/config{what}")


def put(system: System, **settings: str) -> Any:
    return ControlClient(system.state).post("/v1/services/web/config", {"set": settings})


def refused(system: System, **settings: str) -> str:
    with pytest.raises(GaplessError) as caught:
        put(system, **settings)
    return caught.value.what


def commit(directory: Path) -> str:
    git = ["git", "-C", str(directory), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "prices"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_change_reaches_running_instances_and_no_request_is_lost(system: System) -> None:
    system.up()
    known = instances(system)
    pids = [ask(url)[2] for url in known.values()]
    with system.load() as requests:
        done = system.run("config", "set", "web", "price=5", "--why", "sale", "--ticket", "SHOP-7", "--who", "ada")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("web: revision 1, obeyed by ")
        obeyed(system, known, ["5", "5"])

        wrong = system.run("config", "set", "web", "price=five", "prise=6")
        assert wrong.returncode == 2
        assert 'store (revision 2): price: "five": not a whole number' in wrong.stderr
        assert 'store (revision 2): prise: unknown key; did you mean "price"?' in wrong.stderr
        assert refused(system, price="500") == "cheap refuses: nobody pays that"

        key = system.directory / "key"
        key.write_text("hunter2-the-secret\n")
        assert "a secret itself must not be" in refused(system, password="hunter2-the-secret")
        put(system, password=f"secret:file:{key}")
        until(lambda: [ask(url)[1] for url in known.values()] == ["18", "18"], "the password", system.output)

        settings = system.directory / "settings"
        settings.mkdir()
        (settings / "web.yaml").write_text("price: 7\n")
        label = commit(settings)
        (settings / "web.yaml").write_text("# soon\nprice: seven\n")
        assert "changes that are not committed" in system.run("config", "import", str(settings)).stderr
        assert "web.yaml:2: price:" in system.run("config", "import", str(settings), "--dirty").stderr
        (settings / "web.yaml").write_text("price: 7\n")
        assert system.run("config", "import", str(settings)).returncode == 0
        obeyed(system, known, ["7", "7"])
        assert system.run("config", "rollback", "web", "--to", "1").returncode == 0
        obeyed(system, known, ["5", "5"])
    assert lost(requests) == []
    assert [ask(url)[2] for url in known.values()] == pids, "nothing was restarted"
    history = told(system, "/history")
    assert [each["label"] for each in history] == ["as revision 1", label, "", ""]
    assert (history[-1]["who"], history[-1]["why"], history[-1]["ticket"]) == ("ada", "sale", "SHOP-7")
    assert told(system, "/diff?from=2&to=3")["differences"] == [
        f"password: secret:file:{key} → (not set)",
        "price: 5 → 7",
    ]
    shown = told(system)
    assert shown["settings"]["price"] == {"value": "5", "from": "store (revision 4)"}
    written = [shown, history, system.json("changes"), system.run("logs", "web").stdout]
    assert "hunter2-the-secret" not in json.dumps(written)

    system.kill_control()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: ask_quietly(known).isdisjoint({*pids, ""}), "another worker", system.output)
    obeyed(system, known, ["5", "5"])  # who starts without a control plane has the last known configuration
    system.up()
    put(system, price="6")
    obeyed(system, known, ["6", "6"])


def ask_quietly(known: dict[str, str]) -> set[str]:
    """The processes that answer; "" for an instance where none does."""
    found = set()
    for url in known.values():
        try:
            found.add(ask(url)[2])
        except OSError:
            found.add("")
    return found


def test_a_bad_stage_goes_back_by_itself_also_when_the_control_plane_is_killed(system: System) -> None:
    system.up()
    known = instances(system)
    with system.load():
        done = system.run("config", "set", "web", "price=4", "broken=true", "--stage", "50%")
        assert done.returncode == 15, done.stdout + done.stderr
        assert "was rolled back" in done.stderr
        obeyed(system, known, ["3", "3"])

        begun = system.json("config", "set", "web", "price=4", "broken=true", "--stage", "50%", "--detach")
        system.kill_control()
        assert begun["stage"]["state"] == "share"
        until(lambda: sorted(prices(system, known)) == ["3", "4"], "a stage that goes on alone", system.output)
        system.up()
        until(lambda: told(system, "/stage")["ended_at"], "the stage's end", system.output)
        assert (told(system, "/stage")["number"], told(system, "/stage")["state"]) == (2, "rolled back")
        obeyed(system, known, ["3", "3"])

        good = system.run("config", "set", "web", "price=4", "--stage", "50%")
        assert good.returncode == 0, good.stdout + good.stderr
        assert "promoted" in good.stdout
        obeyed(system, known, ["4", "4"])
