"""A real server that watches its code."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.serve_kit import APP, served, until

SECOND = APP.replace('VERSION = "1"', 'VERSION = "2"')


def test_a_changed_directory_reloads_and_a_refused_version_is_tried_once(short_dir: Path) -> None:
    code = short_dir / "code"
    code.mkdir()
    with served(short_dir, "--reload-on", "app.py", "--reload-on", "code") as server:
        server.write("1/0")
        until(lambda: "ZeroDivisionError" in server.err, "the bad version is refused")
        assert server.get("/")[2].startswith(b"1 ")
        server.write(SECOND)
        until(lambda: server.get("/")[2].startswith(b"2 "), "the good one serves")
        (code / "settings.json").write_text("{}")
        until(lambda: server.status()["generation"] == 4, "another file counts as well")
        # A reload counts once the old generation has gone, which may be a moment after the new one serves.
        until(lambda: server.status()["reloads"] == {"done": 2, "refused": 1}, "both are counted, and one refusal")


def test_a_link_that_is_switched_reloads(short_dir: Path) -> None:
    for number, app in (("1", APP), ("2", SECOND)):
        (short_dir / f"v{number}").mkdir()
        (short_dir / f"v{number}" / "shop.py").write_text(app)
    (short_dir / "current").symlink_to("v1")
    app = "import os, sys\nsys.path.insert(0, os.path.realpath('current'))\nfrom shop import app\n"
    with served(short_dir, "--reload-on", "current", app=app) as server:
        assert server.get("/")[2].startswith(b"1 ")
        (short_dir / "next").symlink_to("v2")
        os.replace(short_dir / "next", short_dir / "current")
        until(lambda: server.get("/")[2].startswith(b"2 "), "the new release serves")
