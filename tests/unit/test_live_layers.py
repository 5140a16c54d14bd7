"""The order of the sources, against a slower way to say the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.config import Settings
from gapless.config.layers import Layer, leaves, merged, origin
from gapless.config.reading import differences
from gapless.config.restart import find, held
from gapless.config.secret_references import misfit, references
from gapless.config.types import Path
from gapless.config.variables import from_environment, names

KEYS = st.sampled_from("abc")
TREES = st.recursive(
    st.integers(0, 9) | st.none() | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, TREES, max_size=3)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)


def layers_of(documents: list[dict[str, Any]]) -> list[Layer]:
    return [Layer(name=f"source {number}", value=value) for number, value in enumerate(documents)]


def expected(documents: list[dict[str, Any]], path: Path) -> tuple[bool, Any]:
    """What is at a path: the last source decides that says anything on the way there; mappings are looked into."""
    present = [found for each in documents if (found := find(each, path))[0]]
    for number in range(len(documents) - 1, -1, -1):
        there, value = find(documents[number], path)
        if there and not isinstance(value, dict):
            return True, value
        if not there and blocked(documents[number], path):
            return False, None
        if there:
            return True, {}
    assert not present
    return False, None


def blocked(document: dict[str, Any], path: Path) -> bool:
    """It says on the way there that there is no mapping."""
    values = [find(document, path[:end]) for end in range(1, len(path))]
    return any(there and not isinstance(value, dict) for there, value in values)


@given(st.lists(DOCUMENTS, max_size=4), PATHS)
def test_the_last_source_that_says_anything_decides(documents: list[dict[str, Any]], path: Path) -> None:
    there, value = find(merged(layers_of(documents)), path)
    wanted, leaf = expected(documents, path)
    assert there == wanted
    assert isinstance(value, dict) if isinstance(leaf, dict) else value == leaf


@given(st.lists(DOCUMENTS, max_size=4))
def test_each_part_of_the_whole_is_said_by_the_source_that_it_is_told_to_be_from(
    documents: list[dict[str, Any]],
) -> None:
    layers = layers_of(documents)
    for path, value in leaves(merged(layers)):
        if path and not isinstance(value, dict):
            layer = origin(path, layers)
            assert layer is not None
            assert find(layer.value, path) == (True, value)


@given(st.lists(DOCUMENTS, max_size=4), DOCUMENTS)
def test_sources_are_taken_one_after_the_other(earlier: list[dict[str, Any]], last: dict[str, Any]) -> None:
    whole = merged(layers_of([*earlier, last]))
    assert whole == merged(layers_of([merged(layers_of(earlier)), last]))
    assert whole == merged(layers_of([*earlier, last, last]))


@given(DOCUMENTS, DOCUMENTS, st.lists(PATHS, max_size=3, unique=True))
def test_what_is_held_stays_as_it_runs(wanted: dict[str, Any], running: dict[str, Any], paths: list[Path]) -> None:
    flat = [path for path in paths if not blocked(wanted, path)]
    single = flat[:1]
    result = held(wanted, running, single)
    for path in single:
        assert find(result, path) == find(running, path)
    assert held(result, running, single) == result


@given(DOCUMENTS, DOCUMENTS)
def test_there_is_a_difference_exactly_when_something_is_different(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert differences(one, one) == []
    flat = [[(p, v) for p, v in leaves(each) if p] for each in (one, two)]
    assert bool(differences(one, two)) == (dict(flat[0]) != dict(flat[1]))


class Inner(Settings):
    size: int = 1
    tags: list[str] = []  # noqa: RUF012 - pydantic copies it


class Outer(Settings):
    inner: Inner = Inner()
    other: Inner | None = None
    name: str = ""


@given(st.dictionaries(st.sampled_from([name for name, _, _ in names(Outer, "X_")]), st.sampled_from(["1", "[a]"])))
def test_every_variable_stands_where_its_field_does(env: dict[str, str]) -> None:
    layer = from_environment(Outer, "X_", env)
    assert set(layer.places.values()) == set(env)
    for path, name in layer.places.items():
        assert name == "X_" + "__".join(str(part).upper() for part in path)
    assert from_environment(Outer, "", env).value == {}


@pytest.mark.parametrize(
    "wrong", ["", "x", "env:", "env:1A", "env:A B", "file:", "vault:a", "vault:#k", "vault:a#", "vaults:a#k"]
)
def test_what_is_no_reference_is_told(wrong: str) -> None:
    assert "write secret:env:NAME" in misfit(f"secret:{wrong}")


def test_references_are_found_wherever_they_are() -> None:
    document = {
        "a": "secret:env:A",
        "b": ["x", "secret:file:/b"],
        "c": {"d": [{"e": "secret:vault:a/b#c"}]},
        "f": "secret",
    }
    found = references(document)
    assert found == {("a",): "secret:env:A", ("b", 1): "secret:file:/b", ("c", "d", 0, "e"): "secret:vault:a/b#c"}
    assert [misfit(reference) for reference in found.values()] == ["", "", ""]
