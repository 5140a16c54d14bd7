"""The documentation says what the code says."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from gapless.cli.app import VERBS, build
from gapless.config.complaints import known_keys
from gapless.config.settings import FileSettings
from gapless.core import errors
from gapless.service.kit import Service

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
SECTIONS = {
    "system": (),
    "gateway": ("gateway",),
    "gateway.xds": ("gateway", "xds"),
    "gateway.xds.tls": ("gateway", "xds", "tls"),
    "gateway.tls": ("gateway", "tls"),
    "gateway.tls.certificates": ("gateway", "tls", "certificates", 0),
    "network": ("network",),
    "console": ("console",),
    "registry": ("registry",),
    "rollout": ("rollout",),
    "rollout.windows": ("rollout", "windows", 0),
    "rollout.freeze": ("rollout", "freeze", 0),
    "alerts": ("alerts",),
    "alerts.rules.NAME": ("alerts", "rules", "NAME"),
    "alerts.limits": ("alerts", "limits"),
    "notify": ("notify",),
    "notify.channels.NAME": ("notify", "channels", "NAME"),
    "notify.channels.NAME.email": ("notify", "channels", "NAME", "email"),
    "notify.routes": ("notify", "routes", 0),
    "metrics": ("metrics",),
    "tracing": ("tracing",),
    "services.NAME": ("services", "NAME"),
    "services.NAME.routes": ("services", "NAME", "routes", 0),
    "services.NAME.routes.headers.NAME": ("services", "NAME", "routes", 0, "headers", "NAME"),
    "services.NAME.routes.retries": ("services", "NAME", "routes", 0, "retries"),
    "services.NAME.gateway": ("services", "NAME", "gateway"),
    "services.NAME.cors": ("services", "NAME", "cors"),
    "services.NAME.rollout": ("services", "NAME", "rollout"),
    "services.NAME.rollout.override": ("services", "NAME", "rollout", "override"),
    "services.NAME.rollout.always": ("services", "NAME", "rollout", "always"),
    "services.NAME.rollout.steps": ("services", "NAME", "rollout", "steps", 0),
    "services.NAME.rollout.gates": ("services", "NAME", "rollout", "gates", 0),
    "services.NAME.rollout.gates.command": ("services", "NAME", "rollout", "gates", 0, "command"),
    "services.NAME.rollout.gates.tests": ("services", "NAME", "rollout", "gates", 0, "tests"),
    "services.NAME.rollout.gates.coverage": ("services", "NAME", "rollout", "gates", 0, "coverage"),
    "services.NAME.rollout.gates.security": ("services", "NAME", "rollout", "gates", 0, "security"),
    "services.NAME.rollout.gates.security.waivers": (
        "services",
        "NAME",
        "rollout",
        "gates",
        0,
        "security",
        "waivers",
        0,
    ),
    "services.NAME.rollout.gates.smoke": ("services", "NAME", "rollout", "gates", 0, "smoke"),
    "services.NAME.rollout.gates.contract": ("services", "NAME", "rollout", "gates", 0, "contract"),
    "services.NAME.rollout.mirror": ("services", "NAME", "rollout", "mirror"),
    "services.NAME.rollout.mirror.compare": ("services", "NAME", "rollout", "mirror", "compare"),
    "services.NAME.objective": ("services", "NAME", "objective"),
    "services.NAME.metrics": ("services", "NAME", "metrics", "NAME"),
    "services.NAME.analysis": ("services", "NAME", "analysis"),
    "services.NAME.analysis.metrics": ("services", "NAME", "analysis", "metrics", 0),
    "services.NAME.pools.NAME": ("services", "NAME", "pools", "NAME"),
    "services.NAME.protect": ("services", "NAME", "protect"),
    "services.NAME.protect.rate": ("services", "NAME", "protect", "rate"),
    "services.NAME.protect.limit": ("services", "NAME", "protect", "limit"),
    "services.NAME.protect.breaker": ("services", "NAME", "protect", "breaker"),
}
ALL_VERBS = [verb for verbs in VERBS.values() for verb in verbs]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def sections(page: str) -> dict[str, str]:
    """The parts of a page by their second-level heading."""
    _, *parts = re.split(r"^## ", text(page), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def first_column(part: str) -> list[str]:
    """What the rows of a table begin with, without backquotes; headings and rules left out."""
    rows = re.findall(r"^\| *([^|]*?) *\|", part, flags=re.MULTILINE)
    return [row.strip("`") for row in rows if not set(row) <= {"-"}][1:]


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's `sh` blocks, and behind each prompt of its `console` blocks."""
    content = page.read_text().replace("\\\n", " ")
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```", content, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            command = line if kind == "sh" else line.partition("$ ")[2]
            if command.strip():
                yield shlex.split(command, comments=True)


@cache
def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(build()).commands)  # type: ignore[attr-defined]


def command_of(verb: str, words: list[str]) -> Any:
    """The command, or the one inside of it that the next word names."""
    found = commands()[verb]
    inner = getattr(found, "commands", {})
    if "show" in inner and (not words or words[0] not in inner):  # what a verb does that is given none of its own
        return inner["show"]
    if inner and words and not words[0].startswith("-"):
        assert words[0] in inner, f"gapless {verb} {words[0]}"
        return inner[words[0]]
    return found


def options_of(verb: str, words: list[str]) -> set[str]:
    return {option for parameter in command_of(verb, words).params for option in parameter.opts} | {"--help", "-h"}


def test_every_pitfall_names_a_test_that_exists() -> None:
    found = re.findall(r"\| `(\w+\.py)::(\w+)` \|", text("CONTRIBUTING.md"))
    assert len(found) == len(first_column(text("CONTRIBUTING.md")))
    for file, name in found:
        assert f"def {name}(" in text(f"tests/integration/{file}"), name


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_in_the_documentation_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", text("Makefile"), flags=re.MULTILINE))
    for words in shell_lines(page):
        if words[0] == "gapless":
            check_command(words[1], words[2:])
        elif words[0] == "make":
            assert words[1] in targets, f"{page.name}: make {words[1]}"


def check_command(verb: str, words: list[str]) -> None:
    assert verb in commands(), verb
    if "--" in words:  # what follows is `serve`'s
        check_command("serve", words[words.index("--") + 1 :])
        words = words[: words.index("--")]
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    assert given <= options_of(verb, words), f"gapless {verb}: {given - options_of(verb, words)}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_each_verb_ends_its_help_with_an_example_of_itself(verb: str) -> None:
    last = commands()[verb].help.replace("\b", "").strip().rpartition("\n\n")[2]
    assert last.startswith(f"Example: gapless {verb}"), last
    check_command(verb, shlex.split(last.removeprefix(f"Example: gapless {verb}")))


@pytest.mark.parametrize("group", ["config", "alert", "notify", "route"])
def test_each_verb_of_a_group_ends_its_help_with_an_example_of_itself_and_is_documented(group: str) -> None:
    inner = commands()[group].commands
    for verb, command in inner.items():
        last = command.help.strip().rpartition("\n\n")[2]
        assert f"{last} ".startswith(f"Example: gapless {group} {verb} "), last
        check_command(group, shlex.split(last.removeprefix(f"Example: gapless {group} ")))
    assert first_column(sections("docs/cli.md")[f"gapless {group}"]) == list(inner)


def test_each_verb_of_gate_ends_its_help_with_an_example_of_itself() -> None:
    for verb, command in commands()["gate"].commands.items():
        last = command.help.strip().rpartition("\n\n")[2]
        assert last.startswith(f"Example: gapless gate {verb} "), last
        check_command("gate", shlex.split(last.removeprefix("Example: gapless gate ")))


def test_the_page_on_the_command_line_lists_every_verb_in_its_group() -> None:
    parts = sections("docs/cli.md")
    assert {group: tuple(first_column(parts[group])) for group in VERBS} == VERBS


def test_every_verb_in_the_table_exists() -> None:
    assert sorted(commands()) == sorted(ALL_VERBS)


def test_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+?) \|$", text("docs/cli.md"), flags=re.MULTILINE)
    documented = {name: int(code) for code, name, _ in rows}
    own = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.GaplessError) and "exit_code" in vars(kind)
    }
    assert documented == own
    assert len(set(own.values())) == len(own)


def test_the_page_on_configuration_lists_every_key() -> None:
    parts = sections("docs/configuration.md")
    assert list(parts) == [*SECTIONS, "Live settings"]
    for heading, path in SECTIONS.items():
        assert first_column(parts[heading]) == known_keys(path, FileSettings), heading


def test_the_example_of_configuration_is_accepted(tmp_path: Path) -> None:
    from gapless.config import load

    example = re.findall(r"^```yaml\n(.*?)^```", text("docs/configuration.md"), flags=re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "gapless.yaml").write_text(example)
    assert list(load(tmp_path).services) == ["orders", "inventory"]


def test_the_releases_of_the_readme_are_accepted(tmp_path: Path) -> None:
    from gapless.config import load

    rollout = re.findall(r"^```yaml\n(rollout:.*?)^```", text("README.md"), flags=re.MULTILINE | re.DOTALL)[0]
    inside = "".join(f"    {line}\n" for line in rollout.splitlines())
    head = "system: shop\nservices:\n  orders:\n    app: shop:app\n    routes: [/]\n"
    (tmp_path / "gapless.yaml").write_text(head + inside)
    assert load(tmp_path).services["orders"].rollout.bake_s == 900


def test_the_app_in_the_readme_answers() -> None:
    code = re.findall(r"^```python\n# hello.py\n(.*?)^```", text("README.md"), flags=re.MULTILINE | re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(code, names)
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(names["app"]({"type": "http"}, None, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_variables_of_the_environment_are_read_somewhere() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = re.findall(r"`(GAPLESS_[A-Z_]+)`", text("docs/cli.md"))
    assert named
    assert [name for name in named if f'"{name}"' not in code] == []


def test_architecture_shows_the_layers_that_are_enforced() -> None:
    import tomllib

    contracts = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    shown = re.findall(r"^```\n(__main__\n.*?)^```", text("ARCHITECTURE.md"), flags=re.MULTILINE | re.DOTALL)[0]
    assert [line.partition("  ")[0].strip() for line in shown.splitlines()] == contracts[0]["layers"]


def test_files_that_architecture_names_exist() -> None:
    named = re.findall(r"`([a-z]+/[\w/]+\.py)`", text("ARCHITECTURE.md"))
    missing = [name for name in named if not (ROOT / "src/gapless" / name).exists()]
    assert named
    assert not missing


def test_requirements_are_pinned_with_hashes_and_name_no_host() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        content = path.read_text()
        assert "://" not in content
        for requirement in re.split(r"\n(?=\S)", content.strip()):
            assert "==" in requirement, requirement
            assert "--hash=sha256:" in requirement, requirement


def test_the_page_on_serving_lists_every_option_with_its_help() -> None:
    rows = re.findall(
        r"^\| `(--[a-z-]+)` \| .*? \| (.+?) \|$", sections("docs/serve.md")["All options"], flags=re.MULTILINE
    )
    options = {param.opts[0]: param.help for param in commands()["serve"].params if param.opts[0].startswith("--")}
    assert dict(rows) == options


def test_the_app_in_the_page_on_serving_is_served() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", text("docs/serve.md"), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"app": lambda scope, receive, send: None}
    exec(code, names)
    assert isinstance(names["service"], Service)


def test_the_settings_in_the_page_on_configuration_work() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", text("docs/configuration.md"), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "orders"}
    exec(compile(code, "configuration.md", "exec", dont_inherit=True), names)
    asyncio.run(names["settings"].load())
    assert names["settings"].current.price.max == 100


@pytest.mark.parametrize("page", ["docs/routing.md"])
def test_the_files_in_a_page_are_accepted(page: str, tmp_path: Path) -> None:
    from gapless.config import load

    examples = re.findall(r"^```yaml\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        (tmp_path / "gapless.yaml").write_text(example)
        load(tmp_path)


def test_the_page_on_observability_lists_every_metric() -> None:
    found = "".join(path.read_text() for path in (ROOT / "src/gapless").rglob("*.py"))
    made = set(re.findall(r'"((?:gapless|process|python_gc)_[a-z_]+)",\s*f?"[A-Z1]', found))
    made |= set(re.findall(r'meter\.counter\("(gapless_[a-z_]+)"', found)) | {"gapless_stage_duration_seconds"}
    listed = first_column(text("docs/observability.md").partition("### Every metric")[2].partition("\n## ")[0])
    assert sorted(set(listed)) == sorted(made)
