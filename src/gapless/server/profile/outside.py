"""A look at a process from outside, by py-spy: it needs nothing of the process, which may be stuck."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from gapless.core.errors import GaplessError

LIMIT_S = 20.0
MISSING = "pip install 'gapless[profile]'"


def stacks(pid: int) -> str:
    """The stacks of all threads of a Python process, with what they hold. Raises GaplessError."""
    program = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    try:
        done = subprocess.run([program, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=LIMIT_S)
    except FileNotFoundError:
        raise GaplessError("py-spy is not installed", MISSING) from None
    except subprocess.TimeoutExpired:
        raise GaplessError(f"py-spy found nothing about process {pid} in {LIMIT_S:g} s", "Try again.") from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip()
        raise GaplessError(
            f"py-spy cannot look into process {pid}: {told}",
            "It needs the same user, and the right to trace (root, or sysctl kernel.yama.ptrace_scope=0).",
        )
    return done.stdout
