"""Settings from the environment: `ORDERS_PRICE__MAX` is `price.max` of a service with the prefix `ORDERS_`. Pure.

Only the variables of fields that there are count: others with the same prefix belong to somebody else (Kubernetes sets
`ORDERS_SERVICE_HOST` for a service of that name).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel

from gapless.config.document import read
from gapless.config.layers import Layer
from gapless.config.types import Path, alternatives, is_model

INNER = "__"
"""Between the name of a field and that of a field inside of it."""
DEEPEST = 5
"""Fields inside of each other that variables are looked for: a model may contain itself."""


def names(kind: type[BaseModel], prefix: str, path: Path = ()) -> Iterator[tuple[str, Path, Any]]:
    """Every variable that means something: its name, the path of the field, and the field's type."""
    for name, field in kind.model_fields.items():
        key = field.alias or name
        variable, place = f"{prefix}{key.upper()}", (*path, key)
        yield variable, place, field.annotation
        for inner in alternatives(field.annotation):
            if is_model(inner) and len(place) < DEEPEST:
                yield from names(inner, variable + INNER, place)


def from_environment(kind: type[BaseModel], prefix: str, env: Mapping[str, str]) -> Layer:
    """What the environment says; nothing without a prefix, or `path` would be read from PATH. Lists and mappings are
    written as in YAML: `[a, b]`, `{max: 5}`."""
    value: dict[str, Any] = {}
    places: dict[Path, str] = {}
    for name, path, annotation in names(kind, prefix) if prefix else ():
        if name in env:
            place = value
            for part in path[:-1]:
                place = _mapping(place, str(part))
            place[str(path[-1])] = _value(env[name], annotation)
            places[path] = name
    return Layer(name="environment", value=value, places=places)


def _mapping(place: dict[str, Any], part: str) -> dict[str, Any]:
    """What a variable for one field of a mapping is put into; it wins over a variable for the whole mapping."""
    if not isinstance(place.get(part), dict):
        place[part] = {}
    inner: dict[str, Any] = place[part]
    return inner


def _value(text: str, annotation: Any) -> Any:
    """Text, but for fields that hold more than one value. What is not YAML stays text, which such a field refuses."""
    if text[:1] in ("[", "{") and any(is_model(each) or get_origin(each) for each in alternatives(annotation)):
        document = read(text)
        return text if document.problems else document.value
    return text


def misspelt(kind: type[BaseModel], prefix: str, env: Mapping[str, str]) -> dict[str, str]:
    """Variables that mean nothing but look very much like one that does: name → the one that was probably meant."""
    known = {name for name, _, _ in names(kind, prefix)} if prefix else set()
    unknown = (name for name in env if prefix and name.startswith(prefix) and name not in known)
    near = {name: difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.9) for name in unknown}
    return {name: found[0] for name, found in near.items() if found}
