"""Prometheus, as Debian has it, finds what is registered: by http_sd, with labels, and by DNS SRV."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.registry_kit import LIMIT_S

ROOT = Path(__file__).parents[2]


def driven(directory: Path) -> list[dict[str, list[dict[str, Any]]]]:
    """What the driver tells."""
    assert shutil.which("prometheus"), "apt-get install -y --no-install-recommends prometheus"
    alone = ["unshare", "-mn"] if os.geteuid() == 0 else ["unshare", "-Urmn"]
    argv = [*alone, sys.executable, "-m", "tests.e2e.prometheus_driver", str(directory)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=2 * LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_targets_come_with_what_is_registered_and_go_with_it(tmp_path: Path) -> None:
    both, one = driven(tmp_path)
    assert sorted((it["service"], it["version"]) for it in both["services"]) == [("web", "1.4.0"), ("web", "1.5.0")]
    ports = sorted(it["instance"].rpartition(":")[2] for it in both["services"])
    assert sorted(it["instance"].rpartition(":")[2] for it in both["orders"]) == ports
    assert [it["version"] for it in one["services"]] == ["1.4.0"]
    assert len(one["orders"]) == 1
