"""OpenAPI: promises, answers, and changes that callers notice."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.rollout.contract.answers import modern, probes, problems
from gapless.rollout.contract.breaking import breaking, permitted
from gapless.rollout.contract.spec import Spec

ORDER = {
    "type": "object",
    "required": ["id", "total"],
    "properties": {
        "id": {"type": "integer"},
        "total": {"type": "number"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "parent": {"$ref": "#/components/schemas/Order"},
    },
}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {
        "/orders/{order_id}": {
            "get": {
                "parameters": [{"in": "path", "name": "order_id", "required": True, "example": 7,
                                "schema": {"type": "integer"}}],
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}},
                    "404": {"description": "none"},
                },
            }
        },
        "/orders": {
            "get": {
                "parameters": [
                    {"in": "query", "name": "page", "schema": {"type": "integer", "maximum": 100}},
                    {"in": "query", "name": "kind", "required": True, "schema": {"enum": ["a", "b"]}},
                ],
                "responses": {"200": {"content": {"application/json": {"schema": {
                    "type": "array", "items": {"$ref": "#/components/schemas/Order"}}}}}},
            },
            "post": {
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wanted"}}}},
                "responses": {"201": {"content": {"application/json": {"schema": {
                    "$ref": "#/components/schemas/Order"}}}}},
            },
        },
        "/search": {"get": {"parameters": [{"in": "query", "name": "q", "required": True}], "responses": {}}},
    },
    "components": {
        "schemas": {
            "Order": ORDER,
            "Wanted": {"type": "object", "required": ["item"],
                       "properties": {"item": {"type": "string"}, "n": {"type": "number"}}},
        }
    },
}  # fmt: skip


def spec(document: dict[str, Any] = DOCUMENT) -> Spec:
    return Spec.parse(json.dumps(document))


def changed(*path: Any, to: Any = None, gone: bool = False) -> list[str]:
    """What is breaking once the value at a path is another one, or gone."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for part in path[:-1]:
        place = place[part]
    if gone:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return breaking(spec(), spec(document))


SCHEMAS = ("components", "schemas")
ORDERS = ("paths", "/orders")


def test_nothing_has_changed() -> None:
    assert breaking(spec(), spec()) == []


@pytest.mark.parametrize(
    ("path", "to", "told"),
    [
        ((*SCHEMAS, "Order", "properties", "id"), {"type": "string"}, ".id: its type was integer and is string"),
        ((*SCHEMAS, "Order", "required"), ["id"], ".total: the field may be missing now"),
        ((*SCHEMAS, "Order", "properties", "total"), {"type": ["number", "null"]}, ".total: it may be null now"),
        ((*SCHEMAS, "Wanted", "required"), ["item", "n"], "body $.n: the field is required now"),
        ((*SCHEMAS, "Wanted", "properties", "n"), {"type": "integer"}, "body $.n: its type was number and is integer"),
        ((*SCHEMAS, "Wanted", "additionalProperties"), False, ""),
        ((*ORDERS, "get", "parameters", 0, "schema"), {"type": "integer", "maximum": 10}, "maximum is 10 now"),
        ((*ORDERS, "get", "parameters", 1, "schema"), {"enum": ["a"]}, "only a are accepted now"),
        ((*ORDERS, "get", "parameters", 0, "required"), True, "query parameter page is required now"),
        ((*ORDERS, "post", "requestBody", "required"), True, "the body is required now"),
        ((*ORDERS, "post", "responses"), {"200": {}}, "201 is no longer answered"),
        ((*ORDERS, "get", "responses", "200", "content"), {"text/csv": {}}, "application/json is gone"),
        # What callers do not notice:
        ((*SCHEMAS, "Order", "properties", "new"), {"type": "string"}, ""),
        ((*SCHEMAS, "Order", "properties", "total"), {"type": "integer"}, ""),
        ((*SCHEMAS, "Wanted", "properties", "n"), {"type": ["number", "string"]}, ""),
        ((*ORDERS, "get", "parameters", 1, "schema"), {"enum": ["a", "b", "c"]}, ""),
        ((*ORDERS, "delete"), {"responses": {}}, ""),
    ],
)  # fmt: skip
def test_a_change_is_breaking_when_callers_notice_it(path: tuple[Any, ...], to: Any, told: str) -> None:
    found = changed(*path, to=to)
    assert bool(found) == bool(told), found
    assert all(told in one for one in found), found


def test_what_is_gone_is_breaking() -> None:
    assert changed("paths", "/search", gone=True) == ["GET /search: it is gone"]
    assert any(
        "$.note: the field is gone" in one for one in changed(*SCHEMAS, "Order", "properties", "note", gone=True)
    )


def test_the_name_of_a_parameter_in_a_path_is_nobodys_business() -> None:
    document = json.loads(json.dumps(DOCUMENT).replace("order_id", "id"))
    assert breaking(spec(), spec(document)) == []


def test_changes_can_be_permitted() -> None:
    found = changed("paths", "/search", gone=True)
    assert permitted(found, ["GET /search"]) == []
    assert permitted(found, ["/orders"]) == found


TYPES = st.lists(st.sampled_from(["string", "integer", "boolean", "null"]), min_size=1, unique=True)


@given(old=TYPES, new=TYPES)
def test_answers_may_become_narrower_and_questions_wider_but_never_the_other_way(
    old: list[str], new: list[str]
) -> None:
    got = changed_type("Order", "id", old, new)
    sent = changed_type("Wanted", "n", old, new)
    assert bool(got) == (not set(new) <= set(old))
    assert bool(sent) == (not set(old) <= set(new))


def changed_type(schema: str, name: str, old: list[str], new: list[str]) -> list[str]:
    one, other = copy.deepcopy(DOCUMENT), copy.deepcopy(DOCUMENT)
    one["components"]["schemas"][schema]["properties"][name] = {"type": old}
    other["components"]["schemas"][schema]["properties"][name] = {"type": new}
    return breaking(spec(one), spec(other))


def test_operations_with_examples_are_asked_and_others_are_told() -> None:
    asked, left = probes(spec())
    assert [target for _, target in asked] == ["/orders/7", "/orders?kind=a"]
    assert left == ["GET /search"]


def told(status: int, body: Any, kind: str = "application/json") -> list[str]:
    operation = next(o for o in spec().operations() if o.name == "GET /orders/{order_id}")
    return problems(operation, status, kind, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_an_answer_as_promised() -> None:
    assert told(200, {"id": 1, "total": 2.5, "note": None, "parent": {"id": 0, "total": 0}}) == []
    assert told(404, b"") == []


@pytest.mark.parametrize(
    ("status", "body", "kind", "wanted"),
    [
        (500, b"", "text/plain", "answers 500"),
        (302, b"", "", "answers 302, which is not in its responses (200, 404)"),
        (200, b"<html>", "text/html", "answers 200 as text/html, not as application/json"),
        (200, b"{", "application/json; charset=utf-8", "is not JSON"),
        (200, {"id": "secret", "total": 1}, "application/json", '$.id: not as promised by type ("integer")'),
        (200, {"id": 1}, "application/json", "$: not as promised by required"),
        (200, {"id": 1, "total": 1, "parent": {"id": 1}}, "application/json", "$.parent: not as promised by required"),
    ],
)
def test_an_answer_that_was_not_promised(status: int, body: Any, kind: str, wanted: str) -> None:
    found = told(status, body, kind)
    assert len(found) == 1
    assert wanted in found[0]
    assert "secret" not in found[0]


def test_schemas_of_openapi_3_0_are_understood() -> None:
    old = {"type": "string", "nullable": True, "enum": ["a"], "minimum": 3, "exclusiveMinimum": True}
    assert modern(old) == {"type": ["string", "null"], "enum": ["a", None], "exclusiveMinimum": 3}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"paths": {}}', '{"swagger": "2.0", "paths": {}}', "a: [", "\x00"]
)
def test_what_is_no_document_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|paths|read"):
        Spec.parse(text)


@pytest.mark.parametrize("where", ["#/components/schemas/Nobody", "other.yaml#/x", "#/components/schemas/Ring"])
def test_a_reference_that_leads_nowhere_is_told(where: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["components"]["schemas"]["Ring"] = {"$ref": "#/components/schemas/Ring"}
    document["components"]["schemas"]["Order"]["properties"]["id"] = {"$ref": where}
    with pytest.raises(ValueError, match="reference"):
        breaking(spec(), spec(document))
