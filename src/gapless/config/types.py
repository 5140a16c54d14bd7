"""What types a model has inside: a walk along its annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr

Path = tuple[str | int, ...]
SECRETS = (SecretStr, SecretBytes)


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def alternatives(kind: Any) -> Iterator[Any]:
    """The types that a value of this one may have: the members of unions, without what `Annotated` adds."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from alternatives(get_args(kind)[0])
    elif origin in (Union, UnionType):
        for each in get_args(kind):
            yield from alternatives(each)
    else:
        yield kind


def inside(kind: Any, part: str | int) -> Iterator[Any]:
    """The types that a part of it may have."""
    for each in alternatives(kind):
        if is_model(each):
            fields = {field.alias or name: field.annotation for name, field in each.model_fields.items()}
            yield from alternatives(fields.get(str(part)))
        elif arguments := get_args(each):
            is_mapping = isinstance(get_origin(each), type) and issubclass(get_origin(each) or object, Mapping)
            yield from alternatives(arguments[-1] if is_mapping else arguments[0])


def reach(kind: Any, path: Path) -> list[Any]:
    """The types that the value at a path may have; none where the annotations do not say."""
    found = list(alternatives(kind))
    for part in path:
        found = [inner for each in found for inner in inside(each, part)]
    return found


def is_secret(kind: Any, path: Path) -> bool:
    """Whether what is there, or what it is a part of, is never shown."""
    return any(
        isinstance(each, type) and issubclass(each, SECRETS)
        for end in range(len(path) + 1)
        for each in reach(kind, path[:end])
    )


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """Every model that this type is made of, itself included; each once."""
    waiting, seen = [kind], set()
    while waiting:
        each = waiting.pop()
        if is_model(each) and each not in seen:
            seen.add(each)
            yield each
            waiting += [field.annotation for field in each.model_fields.values()]
        waiting += get_args(each)
