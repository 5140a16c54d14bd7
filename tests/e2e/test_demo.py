"""`make demo`: the main job from end to end, on the example system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

pytestmark = pytest.mark.promise

DEMO = Path(__file__).parents[2] / "examples" / "shop" / "demo.py"


@pytest.mark.timeout(400)
def test_the_demonstration_loses_nothing() -> None:
    argv = [sys.executable, str(DEMO), "--listen", f"127.0.0.1:{free_port()}", "--rate", "25"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("met the bad release's errors", "each order is paid once", "nothing was lost"):
        assert told in done.stdout, done.stdout
