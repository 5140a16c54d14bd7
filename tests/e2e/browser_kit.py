"""Debian's Chromium under Playwright, driven over a pipe."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT_S = 60.0


class Browser:
    """`do` passes a command of console_browser.mjs and returns its answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def do(self, act: str, **rest: Any) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"act": act, **rest}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the browser has ended"
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def browser() -> Iterator[Browser]:
    """One Chromium until the block ends; it and all its processes are ended by their group."""
    assert shutil.which("chromium"), "install Debian's package chromium (scripts/test-packages.sh)"
    subprocess.run([ROOT / "scripts/npm-packages.sh"], check=True, timeout=2 * LIMIT_S)
    with tempfile.TemporaryDirectory(prefix="g-", ignore_cleanup_errors=True) as profile:
        argv = ["node", str(HERE / "console_browser.mjs"), str(ROOT / ".venv/npm"), profile]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            yield Browser(process)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()
