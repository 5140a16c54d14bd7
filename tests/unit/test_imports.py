"""Nothing heavy is imported before it is needed. What it costs in time: benchmarks/startup.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {
    "envoy",
    "google",
    "grpc",
    "httpcore",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "rich",
    "starlette",
    "uvicorn",
    "uvloop",
    "yaml",
}
LIGHT = {"gapless", "gapless.core.errors", "gapless.core.model", "gapless.core.world"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    program = f"import contextlib, io, sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.__stdout__)"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environ
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_gapless_imports_nothing_heavy() -> None:
    loaded = loaded_by("import gapless")
    assert not loaded & (HEAVY | {"typer", "asyncio", "sqlite3"})


@pytest.mark.parametrize("module", sorted(LIGHT))
def test_light_modules(module: str) -> None:
    assert not loaded_by(f"import {module}") & HEAVY


def test_help_imports_nothing_heavy() -> None:
    loaded = loaded_by(
        "from gapless.__main__ import run\nwith contextlib.redirect_stdout(io.StringIO()): assert run(['--help']) == 0"
    )
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_root_names_are_few_and_known() -> None:
    import gapless

    assert len(gapless.__all__) <= 20
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = gapless.nothing
