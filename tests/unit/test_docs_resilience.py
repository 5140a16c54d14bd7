"""Every example of docs/resilience.md runs."""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path

import pytest

from gapless.config import load
from gapless.resilience.guards import Guards
from gapless.resilience.order import OUTSIDE
from gapless.resilience.parse import kinds
from gapless.testing import FakeWorld, fake_clock

PAGE = Path(__file__).parents[2] / "docs/resilience.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
PYTHON = [block for kind, block in BLOCKS if kind == "python"]
YAML = [block for kind, block in BLOCKS if kind == "yaml"]


def title(block: str) -> str:
    """The heading above it."""
    return ["begin", *re.findall(r"^## (.*)$", TEXT[: TEXT.index(block)], flags=re.MULTILINE)][-1]


@pytest.mark.parametrize("block", PYTHON, ids=[f"{n}-{title(block)}" for n, block in enumerate(PYTHON)])
async def test_an_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory with the page's guards.yaml, on a clock that does not wait, named `clock`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guards.yaml").write_text(YAML[1])
    place = f"{PAGE}:{TEXT[: TEXT.index(block)].count(chr(10)) + 1}"
    code = compile(block, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with fake_clock() as clock:
        names = {"clock": clock, "__name__": "example"}
        if code.co_flags & inspect.CO_COROUTINE:
            await types.FunctionType(code, names)()
        else:
            exec(code, names)


def test_the_example_of_gapless_yaml_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "gapless.yaml").write_text(YAML[0])
    service = load(tmp_path).services["orders"]
    assert service.protect
    assert [bool(route.protect) for route in service.routes] == [False, True, True]


def test_the_example_of_a_document_is_accepted() -> None:
    assert Guards(FakeWorld()).take(YAML[1], "guards.yaml") == ("payments",)


def test_every_kind_of_policy_has_a_section() -> None:
    headings = set(re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE))
    assert set(kinds()) | {kind for pair in OUTSIDE for kind in pair} <= headings


def test_the_page_s_own_links_lead_to_headings() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= anchors
