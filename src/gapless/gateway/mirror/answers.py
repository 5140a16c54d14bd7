"""Two answers to the same request, and what they differ in. Pure.

What differs is told by its place and kind, without values: they may be somebody's data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gapless.core.masks import Masks

COMPARED = ("content-type", "location", "cache-control", "www-authenticate", "allow")
"""Headers that clients act on. Others, such as dates and ids, differ by nature."""
MOST = 50
"""Places of one answer that are told apart."""
DEEPEST = 100
LONGEST_PLACE = 120
BODY = "body"
STATUS = "status"
NO_ANSWER = "no answer"

Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status` 0: no whole answer came, and `cause` tells why. `body`: None when it is too large to be kept; `digest`
    is of all of it."""

    status: int = 0
    cause: str = ""
    broken: bool = False
    """The connection failed."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = b""
    digest: bytes = b""
    took_s: float = 0.0

    @property
    def failed(self) -> bool:
        return not self.status or self.status >= 500


@dataclass(frozen=True, slots=True)
class Difference:
    place: str
    told: str

    def __str__(self) -> str:
        return f"{self.place}: {self.told}"


def differences(stable: Answer, new: Answer, masks: Masks) -> tuple[Difference, ...]:
    """What a client would notice, at most some dozens."""
    if not new.status or not stable.status:
        return () if new.status == stable.status else (Difference(NO_ANSWER, new.cause or "it came"),)
    if new.status != stable.status:
        return (Difference(STATUS, f"{stable.status} → {new.status}"),)
    return tuple(islice((*_headers(stable, new, masks), *_bodies(stable, new, masks)), MOST))


def but_for(found: tuple[Difference, ...], noise: tuple[Difference, ...]) -> tuple[Difference, ...]:
    """Those that are at no place, and below none, where the stable release differs from itself. When its own status
    changes, nothing can be said."""
    places = {one.place for one in noise}
    if places & {STATUS, NO_ANSWER}:
        return ()
    return tuple(one for one in found if not any(_within(one.place, place) for place in places))


def _within(place: str, other: str) -> bool:
    return place == other or place.startswith((f"{other}.", f"{other}["))


def _headers(stable: Answer, new: Answer, masks: Masks) -> Iterator[Difference]:
    for name in COMPARED:
        one, other = stable.headers.get(name), new.headers.get(name)
        if name not in masks.headers and one != other:
            told = "gone" if other is None else "new" if one is None else "another value"
            yield Difference(f"header {name}", told)


def _bodies(stable: Answer, new: Answer, masks: Masks) -> Iterator[Difference]:
    if stable.digest == new.digest:
        return
    one, other = _json(stable), _json(new)
    if one is None or other is None:
        yield Difference(BODY, "other bytes")
        return
    yield from _values(one[0], other[0], "$", masks, DEEPEST)


def _json(answer: Answer) -> tuple[Json] | None:
    """The value, in a tuple because it may be null; None when it is no JSON."""
    if answer.body is None or "json" not in answer.headers.get("content-type", ""):
        return None
    try:
        return (json.loads(answer.body),)
    except (ValueError, RecursionError):
        return None


def _values(one: Json, other: Json, place: str, masks: Masks, deep: int) -> Iterator[Difference]:
    if masks.hide(place) or not deep:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        yield from _objects(one, other, place, masks, deep)
    elif isinstance(one, list) and isinstance(other, list):
        yield from _lists(one, other, place, masks, deep)
    elif _kind(one) != _kind(other):
        yield Difference(_short(place), f"{_kind(one)} → {_kind(other)}")
    elif one != other:
        yield Difference(_short(place), f"another {_kind(one)}")


def _objects(
    one: Mapping[str, Json], other: Mapping[str, Json], place: str, masks: Masks, deep: int
) -> Iterator[Difference]:
    for name in sorted({*one, *other}):
        at = f"{place}.{name}"
        if name in one and name in other:
            yield from _values(one[name], other[name], at, masks, deep - 1)
        elif not masks.hide(at):
            yield Difference(_short(at), "gone" if name in one else "new")


def _lists(one: list[Json], other: list[Json], place: str, masks: Masks, deep: int) -> Iterator[Difference]:
    if len(one) != len(other):
        yield Difference(_short(place), "another length")
    for index, (mine, its) in enumerate(zip(one, other, strict=False)):
        yield from _values(mine, its, f"{place}[{index}]", masks, deep - 1)


def _kind(value: Json) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = {dict: "object", list: "array", str: "string", int: "number", float: "number", type(None): "null"}
    return kinds[type(value)]


def _short(place: str) -> str:
    return place if len(place) <= LONGEST_PLACE else place[: LONGEST_PLACE - 1] + "…"
