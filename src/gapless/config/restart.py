"""Settings that a running process cannot change: `pool: Annotated[int, NEEDS_RESTART] = 10`. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from gapless.config.types import Path, is_model


class _NeedsRestart:
    """A mark in `Annotated`. A change of such a field is reported, and takes effect with `gapless reload`."""

    def __repr__(self) -> str:
        return "NEEDS_RESTART"


NEEDS_RESTART = _NeedsRestart()


def marked(kind: type[BaseModel], path: Path = ()) -> Iterator[Path]:
    """The paths of the marked fields, also of nested models."""
    for name, field in kind.model_fields.items():
        place = (*path, field.alias or name)
        if NEEDS_RESTART in field.metadata:
            yield place
        elif is_model(field.annotation):
            yield from marked(field.annotation, place)  # type: ignore[arg-type]  # a model, as `is_model` has said


def held(wanted: Mapping[str, Any], running: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """What is wanted, but at these paths what runs; what is not there in `running` is not there in the result."""
    result = copy.deepcopy(dict(wanted))
    for path in paths:
        place: Any = result
        for part in path[:-1]:
            place = place.setdefault(part, {})
        there, value = find(running, path)
        if there:
            place[path[-1]] = value
        else:
            place.pop(path[-1], None)
    return result


def find(value: Any, path: Path) -> tuple[bool, Any]:
    """Whether there is something at the path of plain data, and what."""
    for part in path:
        if not _has(value, part):
            return False, None
        value = value[part]
    return True, value


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value)
