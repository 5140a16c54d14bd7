"""Changes of a service's stored configuration, as functions of the one before. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from gapless.core.errors import ConfigError

HOW = "Write the path of a key, for instance price.max; docs/configuration.md, Live settings."


def edited(values: Mapping[str, Any], given: Mapping[str, Any], gone: Iterable[str] = ()) -> dict[str, Any]:
    """The values with those `given` by dotted path, and without those `gone`. Raises ConfigError for a path that cannot
    be, or that is to go and is not there."""
    result = copy.deepcopy(dict(values))
    for name in gone:
        _remove(result, _parts(name), name)
    for name, value in given.items():
        *way, last = _parts(name)
        place = result
        for number, part in enumerate(way, 1):
            place = _mapping(place, part, ".".join(way[:number]))
        place[last] = value
    return result


def _parts(name: str) -> list[str]:
    parts = name.split(".")
    if not all(part.strip() for part in parts):
        raise ConfigError(f"{name!r} is no path of a setting", HOW)
    return parts


def _mapping(place: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    inner = place.setdefault(part, {})
    if not isinstance(inner, dict):
        raise ConfigError(f"{name} is {inner!r}, and has nothing inside", f"Unset it first: --unset {name}.")
    return inner


def _remove(values: dict[str, Any], parts: list[str], name: str) -> None:
    """Mappings that it leaves empty go as well: they would say nothing."""
    way = [values]
    for part in parts[:-1]:
        inner = way[-1].get(part)
        way.append(inner if isinstance(inner, dict) else {})
    if parts[-1] not in way[-1]:
        raise ConfigError(f"{name} is not set in the store", "`gapless config get SERVICE` shows what is, and where.")
    del way[-1][parts[-1]]
    for part, place in zip(reversed(parts[:-1]), reversed(way[:-1]), strict=True):
        if not place[part]:
            del place[part]
