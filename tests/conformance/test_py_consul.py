"""py-consul's own tests, unchanged, from its source distribution, against `gapless registry`.

Left out, because this registry has not what they test: `acl`, `acl_templated_policy`, `connect` (access control lists
and a service mesh: use the registry's token and the guards of the kit), `config`, `discovery_chain` (configuration of
that mesh), `operator` (Raft: the store is SQLite, etcd or Consul), `snapshot` (copy the store), `query` (prepared
queries; theirs is named so that pytest never runs it). Of the modules that do run, single tests are left out that need
one of these; `LEFT_OUT` names them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as Xml
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "tests.api.test_agent": 22,
    "tests.api.test_catalog": 5,
    "tests.api.test_coordinates": 2,
    "tests.api.test_event": 4,
    "tests.api.test_health": 12,
    "tests.api.test_kv": 10,
    "tests.api.test_session": 2,
    "tests.api.test_status": 2,
    "tests.api.test_txn": 1,
    "tests.test_aio": 10,
    "tests.test_base": 40,
    "tests.test_callback": 9,
    "tests.test_std": 3,
    "tests.test_utils": 2,
}
"""And how many tests of each pass: what did not run is no success."""
LEFT_OUT = {
    "tests/api/test_agent.py::TestAgent::test_agent_token_set": "needs ACLs",
    "tests/api/test_catalog.py::TestCatalog::test_catalog_gateway_services": "needs the mesh's gateways",
}
LIMIT_S = 300.0
"""Half a minute where nothing else runs."""
AT_ONCE = 3


class Case(NamedTuple):
    name: str
    outcome: str
    detail: str


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their package and their tests, without the conftest that starts containers."""
    unpacked = subprocess.run(
        [ROOT / "scripts" / "py-consul.sh"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    place = tmp_path_factory.mktemp("py-consul")
    for folder in ("consul", "tests"):
        shutil.copytree(Path(unpacked) / folder, place / folder)
    return place


@pytest.fixture(scope="module")
def local_agent() -> Iterator[None]:
    """Some of their checks ask `http://localhost:8500`, which is the agent itself in its container."""
    argv = [sys.executable, "-m", "gapless", "registry", "--json", "--http", "localhost:8500", "--store", "memory:"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert '"ready"' in process.stdout.readline(), "port 8500 must be free: these tests ask for it by number"
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def cases(sources: Path, local_agent: None) -> Mapping[str, Sequence[Case]]:
    """What became of each test, by module."""
    report = sources / "report.xml"
    files = [f"{module.replace('.', '/')}.py" for module in MODULES]
    options = [
        "-p",
        "tests_of_gapless",
        "-p",
        "no:cacheprovider",
        "-q",
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        "-n",
        str(AT_ONCE),
    ]
    left_out = [option for test in LEFT_OUT for option in ("--deselect", test)]
    (sources / "tests_of_gapless.py").write_bytes(Path(__file__).with_name("py_consul_plugin.py").read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pytest", f"--junitxml={report}", *options, *left_out, *files],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": str(sources)},
        timeout=LIMIT_S,
        check=False,
    )
    return read(report)


def read(report: Path) -> Mapping[str, Sequence[Case]]:
    found: dict[str, list[Case]] = {module: [] for module in MODULES}
    for case in Xml.parse(report).iter("testcase"):
        module = next((name for name in MODULES if case.get("classname", "").startswith(name)), "elsewhere")
        troubles = [child for child in case if child.tag in ("failure", "error", "skipped")]
        outcome = troubles[0].tag if troubles else "passed"
        detail = "\n".join(child.text or child.get("message", "") for child in troubles)
        found.setdefault(module, []).append(Case(case.get("name", ""), outcome, detail))
    return found


@pytest.mark.timeout(360)
@pytest.mark.parametrize("module", MODULES)
def test_their_tests_pass(module: str, cases: Mapping[str, Sequence[Case]]) -> None:
    wrong = [case for case in cases[module] if case.outcome != "passed"]
    assert not wrong, "\n\n".join(f"{case.name}: {case.outcome}\n{case.detail}" for case in wrong)
    assert len(cases[module]) == MODULES[module]


def test_nothing_else_ran(cases: Mapping[str, Sequence[Case]]) -> None:
    assert set(cases) == set(MODULES)
