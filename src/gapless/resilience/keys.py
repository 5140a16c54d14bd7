"""From a template such as "{user}" or "{request.tenant}:{path}" to a function over a call's arguments.

Compiled once for each guarded function, so that a call pays for one tuple or dict look-up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from inspect import Parameter, Signature
from operator import attrgetter
from string import Formatter
from typing import Any

from gapless.core.errors import ConfigError

Key = Callable[[tuple[Any, ...], dict[str, Any]], Hashable]
Getter = Callable[[tuple[Any, ...], dict[str, Any]], Any]

NOWHERE = sys.maxsize
"""A place that no tuple of arguments has."""

_MISSING: Any = object()
_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def compile_key(template: str | Callable[..., Hashable], signature: Signature | None, where: str) -> Key:
    """`signature` None: arguments come by name only (`guard.enter(user=…)`).

    A template of one field gives the argument itself (so that keys of ints stay ints); a longer one gives a string.
    A callable is called with the arguments. Raises ConfigError for a field that is no parameter.
    """
    if callable(template):
        given = template
        return lambda args, kwargs: given(*args, **kwargs)
    pieces = [(text, field) for text, field, _, _ in Formatter().parse(template)]
    if not any(field for _, field in pieces):
        return lambda args, kwargs: template
    if len(pieces) == 1 and not pieces[0][0]:
        return _getter(pieces[0][1] or "", signature, where)
    getters = [(text, _getter(field, signature, where) if field else None) for text, field in pieces]
    return lambda args, kwargs: "".join([text + (str(get(args, kwargs)) if get else "") for text, get in getters])


def place_of(template: str | Callable[..., Hashable], signature: Signature | None) -> int:
    """The place among the arguments that a template such as "{user}" names; NOWHERE for all that is not as simple."""
    if callable(template) or signature is None:
        return NOWHERE
    pieces = list(Formatter().parse(template))
    if len(pieces) != 1 or pieces[0][0] or pieces[0][1] not in signature.parameters:
        return NOWHERE
    places = [name for name, each in signature.parameters.items() if each.kind in _BY_PLACE]
    return places.index(pieces[0][1]) if pieces[0][1] in places else NOWHERE


def _getter(field: str, signature: Signature | None, where: str) -> Getter:
    name, _, path = field.partition(".")
    argument = _by_name(name, where) if signature is None else _argument(name, signature, where)
    if not path:
        return argument
    attribute = attrgetter(path)
    return lambda args, kwargs: attribute(argument(args, kwargs))


def _by_name(name: str, where: str) -> Getter:
    def get(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return kwargs[name]
        except KeyError:
            raise ConfigError(f"{where} needs {name!r} for its key", f"Pass {name}=… .") from None

    return get


def _argument(name: str, signature: Signature, where: str) -> Getter:
    parameter = signature.parameters.get(name)
    if parameter is None:
        if any(each.kind is Parameter.VAR_KEYWORD for each in signature.parameters.values()):
            return _by_name(name, where)
        known = ", ".join(signature.parameters) or "none"
        raise ConfigError(f"the key {{{name}}} is no parameter of {where}", f"Its parameters: {known}.")
    default = _MISSING if parameter.default is Parameter.empty else parameter.default
    if parameter.kind is Parameter.KEYWORD_ONLY:
        return lambda args, kwargs: kwargs.get(name, default)
    return _positional(name, list(signature.parameters).index(name), default)


def _positional(name: str, index: int, default: Any) -> Getter:
    def get(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[index] if index < len(args) else kwargs.get(name, default)

    return get
