"""gapless.yaml: what a right file becomes, and what a wrong one is told."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.config import FILE_NAME, System, load, schema
from gapless.config.quantities import buckets, fraction, seconds
from gapless.core.errors import ConfigError
from gapless.core.model import Address, DerivedMetric, Objective, RolloutPolicy, Route, Service, SplitBy, Strategy

SKETCH = """
system: shop
gateway: {listen: "127.0.0.1:8081"}
services:
  orders:
    app: shop.orders:app
    instances: 3
    workers: 2
    routes: [/orders, {path: /o, host: Shop.Example}]
    needs: [inventory]
    env: {RELEASE: 1.10, DEBUG: no, MODE: 0755, EMPTY: ""}
    drain: 500ms
    start: 2m
    timeout: 5
    rollout: {strategy: rolling, by: request, steps: [0.5%, "5%", 100%], hold: 2s, samples: 0, alpha: .05, patience: 1h}
    objective: {max_error_rate: 2.5%, max_p99_ratio: 2}
  inventory:
    command: ./inventory --port {port}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(directory: Path, text: str) -> Path:
    path = directory / FILE_NAME
    path.write_text(text)
    return path


def complaints(text: str) -> list[str]:
    """The lines of the error that a file in the current directory gets."""
    path = write(Path.cwd(), text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.remedy
    return caught.value.what.splitlines()


def service(lines: str) -> str:
    """A file with one service, whose keys begin in line 4."""
    return "system: shop\nservices:\n  orders:\n" + "".join(f"    {line}\n" for line in lines.splitlines())


def test_every_key_becomes_its_value(here: Path) -> None:
    system = load(write(here, SKETCH))
    assert system == System(
        name="shop",
        gateway=system.gateway,
        services=system.services,
        state=here / ".gapless",
        path=here / FILE_NAME,
    )
    assert system.gateway.listen == Address(host="127.0.0.1", port=8081)
    assert system.gateway.envoy is None
    assert system.services["orders"] == Service(
        name="orders",
        app="shop.orders:app",
        source=str(here),
        instances=3,
        workers=2,
        routes=(Route(path="/orders"), Route(path="/o", host="shop.example")),
        needs=("inventory",),
        env={"RELEASE": "1.10", "DEBUG": "no", "MODE": "0755", "EMPTY": ""},
        drain_s=0.5,
        start_s=120.0,
        timeout_s=5.0,
        rollout=RolloutPolicy(
            strategy=Strategy.ROLLING,
            by=SplitBy.REQUEST,
            steps=(50, 500, 10_000),
            hold_s=2.0,
            min_samples=0,
            alpha=0.05,
            patience_s=3600.0,
        ),
        objective=Objective(max_error_rate=0.025, max_p99_ratio=2.0),
    )
    assert system.services["inventory"].command == ("./inventory", "--port", "{port}")


def test_what_is_promised_and_what_is_made_of_metrics(here: Path) -> None:
    text = service(
        "app: a:b\nobjective: {availability: 99.9%, p99: 300ms}\n"
        "metrics: {paid: orders_paid, paid_ratio: {ratio: [orders_paid, orders_created_total]}}"
    )
    system = load(write(here, text + "metrics: {prometheus: http://127.0.0.1:9090/, listen: 9464}\n"))
    orders = system.services["orders"]
    assert (orders.objective.availability, orders.objective.p99_s) == (0.999, 0.3)
    assert orders.metrics == {
        "paid": DerivedMetric(name="paid", metric="orders_paid_total"),
        "paid_ratio": DerivedMetric(name="paid_ratio", metric="orders_paid_total", to="orders_created_total"),
    }
    assert system.metrics.prometheus == "http://127.0.0.1:9090"
    assert system.metrics.listen == Address(host="127.0.0.1", port=9464)


def test_defaults_are_those_of_the_model(here: Path) -> None:
    system = load(write(here, service("app: shop.orders:app")))
    assert system.services == {"orders": Service(name="orders", app="shop.orders:app", source=str(here))}
    assert system.gateway.listen == Address(host="127.0.0.1", port=8080)


def test_a_command_is_ready_when_it_accepts_unless_a_path_is_given(here: Path) -> None:
    assert load(write(here, service("command: [./x]"))).services["orders"].ready_path == ""
    assert load(write(here, service("command: [./x]\nready: /up"))).services["orders"].ready_path == "/up"
    assert load(write(here, service('app: a:b\nready: ""'))).services["orders"].ready_path == ""


def test_paths_are_relative_to_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "code").mkdir()
    path = write(here, "gateway: {envoy: bin/envoy}\n" + service("app: a:b\nsource: code"))
    monkeypatch.chdir("/")
    system = load(path)
    assert system.services["orders"].source == str(here / "code")
    assert system.gateway.envoy == here / "bin/envoy"
    assert load(here) == system


def test_merge_keys_and_anchors(here: Path) -> None:
    text = "system: s\nservices:\n  a: &a {app: a:b, drain: 1s}\n  b: {<<: *a, app: b:b}\n"
    services = load(write(here, text)).services
    assert (services["b"].app, services["b"].drain_s) == ("b:b", 1.0)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('":8080"', "127.0.0.1:8080"),
        ("8080", "127.0.0.1:8080"),
        ("localhost:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ('"[::1]:80"', "[::1]:80"),
    ],
)
def test_addresses(here: Path, written: str, expected: str) -> None:
    system = load(write(here, f"gateway: {{listen: {written}}}\n" + service("app: a:b")))
    assert str(system.gateway.listen) == expected


def test_no_file_tells_how_to_begin(here: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file") as caught:
        load()
    example = caught.value.remedy.partition("\n\n")[2]
    assert load(write(here, example)).services["orders"].app == "shop.orders:app"


LABEL = "a name has 1 to 63 characters: lower-case letters, digits and inner hyphens"
ADDRESS = 'not an address with a port from 1 to 65535; write for instance "127.0.0.1:8080"'

DOCUMENTS = [
    ("", "1: nothing: not a mapping (key: value)"),
    ("a: [", "1: this is not YAML: expected the node content, but found '<stream end>'"),
    ("a: 1\n---\nb: 2\n", "2: this is not YAML: but found another document"),
    ("services: {orders: {app: a:b}}", "1: system: this key is missing"),
    ("system: shop\nservices: {}", "2: services: is empty; name at least one"),
    ("system: Shop\nservices: {a: {app: a:b}}", f'1: system: "Shop": {LABEL}'),
    ("system: s\nservices: {A_b: {app: a:b}}", f'2: services.A_b: "A_b": {LABEL}'),
    ("system: s\nsystem: t\n", "2: system: this key is already there in line 1"),
    ("system: s\n? [a]\n: b\n", "2: a key must be plain text"),
    (
        "system: !!python/name:os.x y\n",
        "1: system: the tag tag:yaml.org,2002:python/name:os.x has no meaning here; remove it",
    ),
    ("system: &x [*x]\n", "1: system[0]: this alias contains itself"),
    ("gateway: {listen: here}\nsystem: s", f'1: gateway.listen: "here": {ADDRESS}'),
    ("gateway: {listen: ':0'}\nsystem: s", f'1: gateway.listen: ":0": {ADDRESS}'),
    (
        "gateway: {listen: shop:80}\nsystem: s",
        '1: gateway.listen: "shop:80": shop is not an IP address; write 127.0.0.1, or 0.0.0.0 for every interface',
    ),
    (service("drain: 1s"), '3: services.orders: give an app, for instance "shop.orders:app", or a command with {port}'),
    (service("command: [x, {port}]"), '4: services.orders.command[1]: braces need quotes in a list: "{port}"'),
]

KEYS_OF_A_SERVICE = [
    ("instnces: 2", 'instnces: unknown key; did you mean "instances"?'),
    ("objective: {p50: 1}", "objective.p50: unknown key; known here: max_error_rate, max_p99_ratio, availability, p99"),
    ("objective: {availability: 100%}", "objective.availability: 100% must be below 1"),
    ("metrics: {paid: {ratio: [a, b], rate: a}}", "metrics.paid: give either a rate, or a ratio of two"),
    ('metrics: {"a-b": paid}', 'metrics.a-b: "a-b": the name of a metric has letters, digits and underscores'),
    ("routes: [{path: /a, pth: 1}]", 'routes[0].pth: unknown key; did you mean "path"?'),
    ("instances: 0", "instances: 0 must be at least 1"),
    ("instances: two", 'instances: "two": not a whole number'),
    ("app2: shop.orders", 'app2: unknown key; did you mean "app"?'),
    ("command: x", "command: give either app or command, not both"),
    ("drain: soon", 'drain: "soon": not a duration; write for instance "30s", "500ms" or "2m"'),
    ("start: 0", "start: 0 must be above 0"),
    ("needs: [inventory]", 'needs[0]: there is no service "inventory"; there are: none'),
    ("needs: [orders]", "needs: these wait for each other: orders → orders; leave one out"),
    (
        "routes: [/a, /a]",
        (
            "routes[1]: never has a request: */a of orders (line 5) takes them all; "
            "remove one, or make that one more exact"
        ),
    ),
    ("routes: [a]", 'routes[0].path: "a": a path begins with "/", and has no query, fragment or blank'),
    ("routes: /a", 'routes: "/a": not a list'),
    ("env: {A-B: 1}", 'env.A-B: "A-B": not a name for an environment variable: letters, digits and underscores'),
    ("env: {GAPLESS_X: 1}", 'env.GAPLESS_X: "GAPLESS_X": names that begin with GAPLESS_ are set by Gapless itself'),
    ("env: {A: }", 'env.A: nothing: there is no value; write "" for an empty one'),
    ("env: {A: [1]}", "env.A: not plain text"),
    (
        "rollout: {strategy: canry}",
        """rollout.strategy: "canry" is none of 'canary', 'rolling' or 'blue-green'; did you mean "canary"?""",
    ),
    ("rollout: {steps: [5%, 1%]}", "rollout.steps: each step must be above the one before"),
    (
        "rollout: {steps: [5%]}",
        'rollout.steps: the last step must be "100%": a rollout ends when everybody has the new release',
    ),
    ("rollout: {steps: [101%]}", 'rollout.steps[0]: "101%": more than 100%'),
    ("rollout: {steps: [5, 100%]}", 'rollout.steps[0]: "5": not a share; write it with the sign, for instance "5%"'),
    ("rollout: {steps: [0.001%, 100%]}", 'rollout.steps[0]: "0.001%": a step is a multiple of 0.01%, above 0%'),
    ("rollout: {alpha: nan}", 'rollout.alpha: "nan": not a finite number'),
    ("rollout: {alpha: 1}", "rollout.alpha: 1 must be below 1"),
    ("source: nowhere", "source: there is no {here}/nowhere (relative to the file)"),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("text", "expected"), DOCUMENTS)
def test_a_wrong_file_is_told_where_and_what_would_be_right(text: str, expected: str) -> None:
    assert f"{FILE_NAME}:{expected}" in complaints(text)


@pytest.mark.parametrize(("line", "expected"), KEYS_OF_A_SERVICE)
def test_so_is_a_wrong_key_of_a_service(here: Path, line: str, expected: str) -> None:
    found = complaints(service(f"app: a:b\n{line}"))
    assert f"{FILE_NAME}:5: services.orders.{expected.replace('{here}', str(here))}" in found


@pytest.mark.parametrize(
    ("written", "share"), [("on", 1.0), ("off", 0.0), ('"on"', 1.0), ("10%", 0.1), ("0.5%", 0.005)]
)
def test_an_access_log_is_on_off_or_a_share(here: Path, written: str, share: float) -> None:
    assert load(write(here, service(f"app: a:b\naccess_log: {written}"))).services["orders"].access_log == share
    assert load(write(here, service("app: a:b"))).services["orders"].access_log == 0.0


@pytest.mark.usefixtures("here")
def test_an_app_and_a_command_differ() -> None:
    [wrong] = complaints(service("app: shop.orders"))
    assert wrong.endswith('4: services.orders.app: "shop.orders": not "module:attribute", for instance "shop:app"')
    [wrong] = complaints(service("command: x\naccess_log: on"))
    assert "a command logs its requests by itself" in wrong
    [wrong] = complaints(service("app: a:b\naccess_log: often"))
    assert 'neither "on" nor "off": not a share' in wrong
    [wrong] = complaints(service("command: x\nworkers: 2"))
    assert wrong.endswith("5: services.orders.workers: only an app has workers; raise instances instead")


@pytest.mark.usefixtures("here")
def test_characters_that_yaml_forbids() -> None:
    assert complaints("a: \x01")[0].startswith(f"{FILE_NAME}:1: this is not YAML: unacceptable character #x0001")


@pytest.mark.usefixtures("here")
def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = """sytem: shop
services:
  orders: {app: a:b, needs: [inventory, nobody]}
  inventory: {app: a:b, needs: [orders], drain: x}
  payment: {source: nowhere}
"""
    lines = complaints(text)
    assert [int(line.split(":")[1]) for line in lines] == [1, 1, 3, 3, 4, 5, 5]


@pytest.mark.usefixtures("here")
def test_a_cycle_is_reported_once() -> None:
    text = "system: s\nservices:\n" + "".join(
        f"  {name}: {{app: a:b, needs: [{other}]}}\n" for name, other in ("ab", "bc", "ca", "da")
    )
    assert complaints(text) == [
        f"{FILE_NAME}:3: services.a.needs: these wait for each other: a → b → c → a; leave one out"
    ]


def test_files_that_cannot_be_read(here: Path) -> None:
    (here / FILE_NAME).write_bytes(b"system: \xff")
    with pytest.raises(ConfigError, match="byte 8 is not UTF-8"):
        load()


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["app", "command", "routes", "needs", "env", "rollout", "objective", "instances", "drain", "ready"]
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, PLAIN, max_size=4), PLAIN)
def test_whatever_stands_in_the_file_gets_an_answer(service: dict[str, Any], gateway: Any) -> None:
    text = yaml.safe_dump({"system": "s", "gateway": gateway, "services": {"orders": service}}, allow_unicode=True)
    answered(text)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:{}[]-&*!|>#'\"%@,? \n\t<~"), max_size=40))
def test_whatever_text_stands_in_the_file_gets_an_answer(text: str) -> None:
    answered(text)


def answered(text: str) -> None:
    """Accepted, or refused with a line for each problem; nothing else may come out."""
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), text)
        try:
            load(path)
        except ConfigError as error:
            assert f"{path}:" in error.what  # noqa: PT017 (either outcome is right)


@given(st.integers(1, 10_000))
def test_steps_are_exact(share: int) -> None:
    assert buckets(f"{share / 100:.2f}%") == share
    assert fraction(f"{share / 100:.2f}%") == pytest.approx(share / 10_000)


@given(st.integers(0, 10**6))
def test_durations_agree_across_units(number: int) -> None:
    assert seconds(f"{number}m") == seconds(number * 60) == pytest.approx(seconds(f"{number * 60_000} ms"))


def test_the_schema_describes_every_key_with_a_valid_default() -> None:
    described = schema()
    for definition in [described, *described["$defs"].values()]:
        for name, key in definition.get("properties", {}).items():
            assert key.get("description"), name
    assert described["$defs"]["RolloutSettings"]["properties"]["steps"]["default"] == ["1%", "5%", "25%", "100%"]
    assert described["additionalProperties"] is False
