"""What guards remember, handed from one real process to the next: other clocks' bases, other hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pathlib import Path
from gapless import breaker, rate
from gapless.resilience.errors import BreakerOpen, RateLimited
from gapless.resilience.guards import Guards

guards = Guards()
guards.define("logins", rate("3/h", key="{user}"))
guards.define("mail", breaker(rate=0.5, minimum=4, open_for=600.0))
given = Path(sys.argv[1])
guards.load_state(given.read_bytes())

def verdict(name, **keys):
    try:
        with guards.get(name).enter(**keys):
            raise ConnectionError
    except (RateLimited, BreakerOpen, ConnectionError) as error:
        return type(error).__name__

for call in range(4):
    print(verdict("logins", user="ada"), verdict("mail"))
given.write_bytes(guards.dump_state(10_000))
"""


def run(state: Path, seed: int) -> list[str]:
    env = {**os.environ, "PYTHONHASHSEED": str(seed)}
    done = subprocess.run([sys.executable, "-c", CODE, str(state)], env=env, check=True, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.splitlines()


def test_the_next_process_refuses_whom_the_last_one_did(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_bytes(b"")
    assert run(state, 1) == ["ConnectionError ConnectionError"] * 3 + ["RateLimited ConnectionError"]
    assert run(state, 2) == ["RateLimited BreakerOpen"] * 4
    state.write_bytes(state.read_bytes()[:-3])
    assert "ConnectionError" in run_quietly(state)


def run_quietly(state: Path) -> str:
    """It may complain, but it starts."""
    done = subprocess.run([sys.executable, "-c", CODE, str(state)], check=True, capture_output=True, text=True)
    assert "not understood" in done.stderr
    return done.stdout
