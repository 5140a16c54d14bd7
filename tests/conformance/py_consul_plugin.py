"""The fixtures of py-consul's own conftest, with `gapless registry` in place of a container: a fresh one per test.

Loaded by `-p` into a pytest of its own, which knows nothing else of us.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator

import pytest

PATIENCE_S = 30.0
ConsulInstance = namedtuple("ConsulInstance", ["container", "port", "version"])


@pytest.fixture(scope="session", autouse=True)
def _unset_consul_token() -> None:
    os.environ.pop("CONSUL_HTTP_TOKEN", None)


@pytest.fixture
def consul_instance() -> Iterator[ConsulInstance]:
    argv = [sys.executable, "-m", "gapless", "registry", "--json", "--http", "127.0.0.1:0", "--store", "memory:"]
    with subprocess.Popen([*argv, "--enable-script-checks"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline() or "{}")
            yield ConsulInstance(process, int(said["http"][0].rpartition(":")[2]), said["version"])
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


@pytest.fixture
def consul_port(consul_instance: ConsulInstance) -> tuple[int, str]:
    return consul_instance.port, consul_instance.version
