"""Node's client of Consul, unchanged: it registers, and its watches receive each change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.registry_kit import LIMIT_S, Registry, get_json, until

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".venv/npm/node_modules"
SCRIPT = Path(__file__).with_name("npm_watch.js")


def lines(log: Path) -> list[Any]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_watches_receive_each_change(tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node, "node is not installed: apt-get install -y --no-install-recommends nodejs npm"
    subprocess.run([ROOT / "scripts/npm-packages.sh"], check=True, timeout=2 * LIMIT_S)
    log = tmp_path / "node.log"
    with Registry(tmp_path) as registry:
        with log.open("wb") as output:
            argv = [node, str(SCRIPT), str(registry.http)]
            process = subprocess.Popen(
                argv, stdout=output, stderr=output, env={**os.environ, "NODE_PATH": str(MODULES)}
            )
        try:

            def told(line: Any) -> None:
                until(lambda: line in lines(log)[-2:], log.read_text)

            told({"web": []})
            told({"keys": ["settings/colour=blue"]})
            assert lines(log)[0] == {"self": "here"}
            assert [one["Service"]["Port"] for one in get_json(registry.http, "/v1/health/service/node?passing")] == [
                3000
            ]
            registry.register("one", 8001)
            told({"web": ["one"]})
            registry.register("two", 8002)
            told({"web": ["one", "two"]})
            registry.fail("one")
            told({"web": ["two"]})
            registry.succeed("one")
            told({"web": ["one", "two"]})
            registry.deregister("two")
            told({"web": ["one"]})
            registry.put("kv/settings/colour", "red")
            told({"keys": ['settings/colour="red"']})
            assert not any("error" in line for line in lines(log))
        finally:
            process.kill()
            process.wait(LIMIT_S)
