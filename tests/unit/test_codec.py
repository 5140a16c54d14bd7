"""What the store keeps comes back as it was, also from another version of Gapless."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core import model
from gapless.core.codec import decode, encode
from gapless.core.errors import StoreBroken
from gapless.core.model import Address, Change, Instance, Phase, Pool, Rollout, RouteTable, Service, Split, Window

KINDS = [Service, model.Release, Instance, Pool, Split, Rollout, Change, RouteTable, Window]
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    float: st.floats(allow_nan=False, allow_infinity=False),
    int: st.integers(-(2**53), 2**53),
    str: st.text(string.printable + "äß東🦀", max_size=8),
    bool: st.booleans(),
    NoneType: st.none(),
}


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a model type, with every field filled: hypothesis by itself leaves out those with defaults."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: any_of(hints[field.name]) for field in fields(kind)})
    if origin is UnionType:
        return st.one_of([any_of(each) for each in arguments])
    if origin is Mapping:
        return st.dictionaries(any_of(arguments[0]), any_of(arguments[1]), max_size=3)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(any_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(any_of, arguments))
    return PLAIN[kind] if kind in PLAIN else st.sampled_from(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_everything_comes_back(kind: type) -> None:
    @settings(max_examples=15, deadline=None)
    @given(any_of(kind))
    def comes_back(value: object) -> None:
        assert decode(encode(value), kind) == value

    comes_back()


def instance() -> Instance:
    return Instance(id="a1", service="s", release="1", address=Address(host="h", port=1), phase=Phase.READY)


def test_the_form_is_json_that_people_can_read() -> None:
    told = json.loads(encode(instance()))
    assert told["address"] == {"host": "h", "port": 1}
    assert told["phase"] == "ready"
    assert set(told) == {field.name for field in fields(Instance)}


def test_fields_of_another_version_do_no_harm() -> None:
    told = json.loads(encode(instance()))
    told["invented_later"] = {"x": 1}
    del told["failures"], told["detail"]
    assert decode(json.dumps(told), Instance) == instance()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"id": 1}', b"\xff"])
def test_what_does_not_fit_says_so(data: bytes) -> None:
    with pytest.raises(StoreBroken, match="stored Instance does not fit"):
        decode(data, Instance)
