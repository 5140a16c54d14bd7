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
POLICIES = (
    "Rejected",
    "Transient",
    "adaptive",
    "breaker",
    "cache",
    "deadline",
    "fallback",
    "guard",
    "hedge",
    "idempotent",
    "last",
    "limit",
    "rate",
    "ratio",
    "retry",
    "top",
)
LIGHT = {"gapless", "gapless.core.errors", "gapless.core.model", "gapless.core.world"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    return {name.partition(".")[0] for name in modules_after(code)}


def modules_after(code: str) -> set[str]:
    program = f"import contextlib, io, sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.__stdout__)"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environ
    )
    return set(done.stdout.split())


def test_importing_gapless_imports_nothing_heavy() -> None:
    loaded = loaded_by("import gapless")
    assert not loaded & (HEAVY | {"typer", "asyncio", "sqlite3"})


def test_policies_import_little_beyond_asyncio() -> None:
    """Defining a dataclass takes as long as importing three modules; `random` and `pathlib` bring their own."""
    policies = loaded_by(f"import asyncio\nfrom gapless import {', '.join(POLICIES)}") - loaded_by("import asyncio")
    assert not policies & (HEAVY | {"dataclasses", "hashlib", "pathlib", "random", "secrets", "urllib"})


@pytest.mark.parametrize("module", sorted(LIGHT))
def test_light_modules(module: str) -> None:
    assert not loaded_by(f"import {module}") & HEAVY


def test_help_imports_nothing_heavy() -> None:
    loaded = loaded_by(
        "from gapless.__main__ import run\nwith contextlib.redirect_stdout(io.StringIO()): assert run(['--help']) == 0"
    )
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_a_worker_starts_without_what_few_connections_need() -> None:
    """Its start is what a reload waits for, and it competes with those that serve."""
    loaded = loaded_by("import gapless.server.worker.worker, gapless.server.worker.serving, gapless.server.http.front")
    assert "httptools" in loaded
    assert not loaded & {"click", "h2", "hpack", "hyperframe", "uvicorn", "websockets", "wsproto"}


def test_a_worker_starts_without_the_control_plane_s_words_and_the_master_s_half() -> None:
    code = "import gapless.server.worker.worker, gapless.server.worker.serving, gapless.server.http.front"
    loaded = modules_after(code)
    assert "gapless.service.kit" in loaded
    assert not loaded & {"gapless.core.model", "gapless.core.ports", "gapless.server.keeper"}
    assert not [name for name in loaded if name.startswith(("gapless.server.master", "gapless.server.generations"))]


def test_the_first_worker_is_started_before_anything_is_imported() -> None:
    loaded = modules_after("import gapless.__main__, gapless.server.early")
    assert not loaded & {"asyncio", "typer", "typing", "gapless.cli.app", "logging"}


def test_root_names_are_few_and_known() -> None:
    import gapless

    assert len(gapless.__all__) <= 20
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = gapless.nothing
