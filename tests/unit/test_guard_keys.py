"""Templates of keys: which argument they find, however it is passed."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.resilience.keys import compile_key


def charge(user: str, amount: int = 3, /, *rest: int, tier: str = "gold", **more: Any) -> None: ...


def plain(user: str, amount: int = 3) -> None: ...


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "key"),
    [
        ("{user}", ("u",), {}, "u"),
        ("{amount}", ("u",), {}, 3),
        ("{amount}", ("u", 7), {}, 7),
        ("{tier}", ("u",), {}, "gold"),
        ("{tier}", ("u",), {"tier": "tin"}, "tin"),
        ("{tenant}", ("u",), {"tenant": 5}, 5),
        ("{user}:{amount}", ("u",), {}, "u:3"),
        ("pay-{user}", ("u",), {}, "pay-u"),
        ("{user.account.id}", (SimpleNamespace(account=SimpleNamespace(id=9)),), {}, 9),
        ("everybody", ("u",), {}, "everybody"),
        (lambda user, *rest, **more: user * 2, ("u",), {}, "uu"),
    ],
)
def test_a_template_finds_its_arguments(template: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any) -> None:
    assert compile_key(template, inspect.signature(charge), "charge")(args, kwargs) == key


@given(st.text(), st.integers(), st.integers(0, 2))
def test_it_does_not_matter_how_an_argument_is_passed(user: str, amount: int, positional: int) -> None:
    names = {"user": user, "amount": amount}
    args = tuple(list(names.values())[:positional])
    kwargs = dict(list(names.items())[positional:])
    signature = inspect.signature(plain)
    assert compile_key("{user}", signature, "plain")(args, kwargs) == user
    assert compile_key("{amount}", signature, "plain")(args, kwargs) == amount


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\{tenant\} is no parameter of plain(.|\n)*user, amount"):
        compile_key("{tenant}", inspect.signature(plain), "plain")
    for signature in (inspect.signature(charge), None):
        with pytest.raises(ConfigError, match=r"shop needs 'tenant' for its key(.|\n)*tenant="):
            compile_key("{tenant}", signature, "shop")(("u",), {})
    assert compile_key("{user}", None, "shop.enter")((), {"user": "u"}) == "u"
