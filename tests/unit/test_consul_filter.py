"""Filter expressions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.consul.answer import Refusal
from gapless.api.consul.filter import filter_of
from gapless.api.consul.filter.match import predicate
from gapless.api.consul.filter.parse import And, Expression, Match, Not, Or, parse
from gapless.api.consul.filter.tokens import FilterError

DATA: dict[str, Any] = {
    "Node": {"Node": "n1", "Meta": {"zone": "a", "key with spaces": "v", "": "empty"}},
    "Service": {
        "Service": "web",
        "ID": "web-1",
        "Port": 8080,
        "Tags": ["prod", "v2"],
        "Meta": {"version": "1.5.0"},
        "EnableTagOverride": False,
        "Weights": {"Passing": 10},
        "Address": "",
    },
    "Checks": [{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "c", "Status": "warning"}],
}


@pytest.mark.parametrize(
    "text",
    [
        'Service.Service == "web"',
        "Service.Service == web",
        "Service.Service==`web`",
        'Service.Service != "db"',
        "Service.Port == 8080",
        "Service.Port != 80",
        "Service.Weights.Passing == 10",
        "Service.EnableTagOverride == false",
        '"prod" in Service.Tags',
        "prod in Service.Tags",
        '"dev" not in Service.Tags',
        'Service.Tags contains "v2"',
        "Service.Tags not contains v3",
        'Service.Meta.version == "1.5.0"',
        'Service.Meta["version"] matches "^1[.]"',
        "Service.Meta.version not matches `^2`",
        "version in Service.Meta",
        "Service.Meta.absent is empty",
        "Service.Meta is not empty",
        "Service.Address is empty",
        'Node.Meta["key with spaces"] == v',
        '"eb-" in Service.ID',
        'Checks.Status == "warning"',
        "not Checks.Status == critical",
        'Service.Service == "db" or Service.Service == "web" and "prod" in Service.Tags',
        '(Service.Service == "web" or Node.Node == "x") and not ("dev" in Service.Tags)',
        "not not Service.Tags is not empty",
        'Service.Meta.absent == ""',
        "  Service.Port == 8080  ",
    ],
)
def test_what_is_true(text: str) -> None:
    assert filter_of(text)(DATA) is True
    assert filter_of(f"not ({text})")(DATA) is False


def test_and_binds_more_than_or() -> None:
    assert filter_of("Node.Node == n1 or Node.Node == x and Node.Node == y")(DATA) is True
    assert filter_of("(Node.Node == n1 or Node.Node == x) and Node.Node == y")(DATA) is False


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1:1 (0): no match found, expected: a selector or a value"),
        ("not a valid expression((", '1:5 (4): Selector "a" is not valid'),
        ("Service.Nope == 1", '1:1 (0): Selector "Service.Nope" is not valid'),
        ("Service ==", "1:11 (10): no match found, expected: a selector or a value"),
        ("Service = web", "1:9 (8): no match found for '='"),
        ("Service == web web", "1:16 (15): no match found, expected: the end, `and` or `or`"),
        ("(Service == web", '1:16 (15): no match found, expected: ")"'),
        ("Service resembles web", "1:9 (8): no match found, expected: an operator"),
        ('"web" == Service', "1:1 (0): no match found, expected: a selector"),
        ('Meta["x == 1', "1:6 (5): no match found for '\"'"),
        ("Service matches `(`", "missing ): ("),
        ("not " * 100 + "Service is empty", "1:257 (256): more than 64 levels"),
        ("(" * 100 + "Service is empty", "1:65 (64): more than 64 levels"),
        ("x" * 9000, "1:8193 (8192): longer than 8192 characters"),
    ],
)
def test_what_means_nothing(text: str, complaint: str) -> None:
    with pytest.raises(Refusal) as refused:
        filter_of(text)
    assert (refused.value.status, refused.value.text) == (
        400,
        f"Failed to create boolean expression evaluator: {complaint}",
    )


@pytest.mark.parametrize(
    "text",
    [
        "Service.Port == many",
        "Service.Tags == prod",
        "Service.EnableTagOverride == perhaps",
        "80 in Service.Port",
        "Service.Port is empty",
        "Service.Meta matches x",
    ],
)
def test_what_does_not_fit_the_data(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        filter_of(text)(DATA)
    assert refused.value.status == 400
    assert refused.value.text.startswith("Failed to filter: ")


def test_a_regular_expression_cannot_stop_the_others() -> None:
    evil = filter_of("Service matches `^(a+)+$`")
    assert evil({"Service": "a" * 20_000 + "!"}) is False


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        parse(text)
    except FilterError as error:
        assert str(error).startswith("1:")  # noqa: PT017 - both ways are right


VALUES = st.text(max_size=4)
SELECTORS = st.sampled_from([("Service",), ("Tags",), ("Meta", "k"), ("Meta", "a b"), ("Node", "Name")])
MATCHES = st.builds(Match, SELECTORS, st.sampled_from(["in", "empty"]), VALUES).map(
    lambda one: Match(one.selector, "empty") if one.operator == "empty" else one
)
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    MATCHES,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


def written(expression: Expression) -> str:
    match expression:
        case Match(selector, "empty"):
            return f"{path(selector)} is empty"
        case Match(selector, _, value):
            return f"{quoted(value)} in {path(selector)}"
        case Not(inner):
            return f"not ({written(inner)})"
        case And(parts):
            return " and ".join(f"({written(part)})" for part in parts)
        case Or(parts):
            return " or ".join(f"({written(part)})" for part in parts)


def path(selector: tuple[str, ...]) -> str:
    return selector[0] + "".join(f"[{quoted(name)}]" for name in selector[1:])


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(EXPRESSIONS)
def test_what_is_written_is_read_again(expression: Expression) -> None:
    assert parse(written(expression)) == expression


TEXTS = st.sampled_from(["", "a", "ab", "b"])
OBJECTS = st.fixed_dictionaries(
    {
        "Service": TEXTS,
        "Tags": st.none() | st.lists(TEXTS, max_size=3),
        "Meta": st.dictionaries(st.sampled_from(["k", "a b"]), TEXTS),
        "Node": st.fixed_dictionaries({"Name": TEXTS}),
    }
)


def true_of(expression: Expression, data: dict[str, Any]) -> bool:
    """The plainest way to say it."""
    match expression:
        case Match(selector, operator, value):
            found: Any = data
            for name in selector:
                found = (found or {}).get(name)
            return not found if operator == "empty" else value in ([] if found is None else found)
        case Not(inner):
            return not true_of(inner, data)
        case And(parts):
            return all(true_of(part, data) for part in parts)
        case Or(parts):
            return any(true_of(part, data) for part in parts)


@given(EXPRESSIONS, OBJECTS)
def test_it_is_true_when_its_parts_say_so(expression: Expression, data: dict[str, Any]) -> None:
    assert predicate(expression)(data) == true_of(expression, data)
