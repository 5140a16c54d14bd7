"""The sources of a service's settings, and how they become one. Pure.

Later ones win: defaults → file → environment → store. Mappings are merged key by key; anything else is replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gapless.config.restart import find
from gapless.config.types import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one source says. `places` is where a part stands in it (`orders.yaml:3`, a variable); a part that is not
    named there stands where the nearest one around it does, and at last at `name`."""

    name: str
    value: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[Path, str] = field(default_factory=dict)
    kept: bool = False
    """Its values stay in a history that people read: a secret may be there by reference only."""

    def place(self, path: Path) -> str:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """All of them as one, without sharing anything that could be changed."""
    result: dict[str, Any] = {}
    for layer in layers:
        _merge(result, layer.value)
    return result


def _merge(into: dict[str, Any], value: Mapping[str, Any]) -> None:
    for key, item in value.items():
        if isinstance(item, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], item)
        else:
            into[key] = _copied(item)


def _copied(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {key: _copied(each) for key, each in item.items()}
    return [_copied(each) for each in item] if isinstance(item, (list, tuple)) else item


def origin(path: Path, layers: Sequence[Layer]) -> Layer | None:
    """The source of what is at a path of the merged whole; None when nobody says anything there."""
    for end in range(len(path), 0, -1):
        for layer in reversed(layers):
            if find(layer.value, path[:end])[0]:
                return layer
    return None


def place_of(path: Path, layers: Sequence[Layer]) -> str:
    """Where a part of the whole stands; for what nobody gives, the first source, where it could stand."""
    found = origin(path, layers) or next(iter(layers), None)
    return found.place(path) if found else "settings"


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every part that is no mapping (or is an empty one), with its path."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)))
    else:
        yield path, value
