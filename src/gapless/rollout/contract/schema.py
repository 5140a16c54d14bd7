"""What of a schema may be narrowed or widened without anybody noticing.

What callers send must fit the new schema whenever it fitted the old one (`sent`); what they get must fit the old one
whenever it fits the new one (`got`). The keywords that say so in practice are compared: types, null, properties,
required, enum, items, bounds. Where `anyOf` or `oneOf` have several objects, only their types are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from gapless.rollout.contract.spec import Spec

Json = Any
Way = Literal["sent", "got"]
Side = tuple[Spec, Json]

UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")


def breaks(old: Side, new: Side, way: Way, where: str, seen: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """A sentence for each change that callers notice. Raises ValueError for references that lead nowhere."""
    before, after = merged(*old), merged(*new)
    pair = id(old[0].follow(old[1])), id(new[0].follow(new[1]))
    if pair in seen or not isinstance(before, dict) or not isinstance(after, dict):
        return
    seen |= {pair}
    if told := _types(before, after, way):
        yield f"{where}: {told}"
        return
    yield from (f"{where}: {told}" for told in _values(before, after, way))
    yield from _properties((old[0], before), (new[0], after), way, where, seen)
    if "items" in before and "items" in after:
        yield from breaks((old[0], before["items"]), (new[0], after["items"]), way, f"{where}[*]", seen)


def merged(spec: Spec, schema: Json) -> Json:
    """The schema without its reference, and with what `allOf`, or the only alternative that is not null, adds."""
    schema = spec.follow(schema)
    if not isinstance(schema, dict):
        return schema
    parts = [merged(spec, part) for part in schema.get("allOf", ())]
    objects, nullable = _alternatives(spec, schema)
    if len(objects) == 1:
        parts += objects
    found = dict(schema)
    for part in parts:
        if isinstance(part, dict):
            found = _joined(found, part)
    if len(objects) == 1 and nullable and found.get("type"):
        found["type"] = sorted({*_listed(found["type"]), "null"})
    return found


def _joined(one: Mapping[str, Json], other: Mapping[str, Json]) -> dict[str, Json]:
    properties = {**other.get("properties", {}), **one.get("properties", {})}
    required = [*one.get("required", ()), *other.get("required", ())]
    joined = {**other, **one}
    return {**joined, **({"properties": properties} if properties else {}), "required": required}


def _alternatives(spec: Spec, schema: Mapping[str, Json]) -> tuple[list[Json], bool]:
    """Those that are not null, and whether null is one."""
    found = [spec.follow(each) for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    others = [merged(spec, each) for each in found if not (isinstance(each, dict) and each.get("type") == "null")]
    return others, len(others) < len(found)


def _listed(value: Json) -> list[str]:
    return value if isinstance(value, list) else [value]


def types(schema: Mapping[str, Json]) -> frozenset[str]:
    """What it may be; empty: anything. An integer is a number."""
    if "type" not in schema:
        return frozenset()
    found = {*_listed(schema["type"])} | ({"null"} if schema.get("nullable") else set())
    return frozenset(found | ({"integer"} if "number" in found else set()))


def _types(before: Mapping[str, Json], after: Mapping[str, Json], way: Way) -> str:
    old, new = types(before), types(after)
    small, large = (old, new) if way == "sent" else (new, old)
    if not large or (small and small <= large):
        return ""
    if "null" in small - large and small - {"null"} <= large and small:
        return "null is no longer accepted" if way == "sent" else "it may be null now"
    return f"its type was {_worded(old)} and is {_worded(new)}"


def _worded(found: frozenset[str]) -> str:
    shown = found - {"integer"} if "number" in found else found
    return " or ".join(sorted(shown)) or "anything"


def _values(before: Mapping[str, Json], after: Mapping[str, Json], way: Way) -> Iterator[str]:
    if way == "got":
        return  # a value that clients did not know is no broken promise: enumerations grow
    if "enum" in after:
        gone = [value for value in before.get("enum", ()) if value not in after["enum"]]
        if gone or "enum" not in before:
            yield f"only {', '.join(map(str, after['enum'][:5]))} are accepted now"
    for keys, tighter in ((UPPER, min), (LOWER, max)):
        for key in keys:
            if _tightened(before.get(key), after.get(key), tighter):
                yield f"{key} is {after[key]} now"


def _tightened(old: Json, new: Json, tighter: Any) -> bool:
    if not isinstance(new, (int, float)) or isinstance(new, bool):
        return False
    return not isinstance(old, (int, float)) or (new != old and tighter(old, new) == new)


def _properties(old: Side, new: Side, way: Way, where: str, seen: frozenset[tuple[int, int]]) -> Iterator[str]:
    before, after = old[1].get("properties", {}), new[1].get("properties", {})
    needed_before, needed_after = set(old[1].get("required", ())), set(new[1].get("required", ()))
    if way == "got":
        yield from (f"{where}.{name}: the field is gone" for name in before if name not in after)
        less = (needed_before - needed_after) & after.keys()
        yield from (f"{where}.{name}: the field may be missing now" for name in sorted(less))
    else:
        more = needed_after - needed_before
        yield from (f"{where}.{name}: the field is required now" for name in sorted(more))
        if new[1].get("additionalProperties") is False:
            yield from (f"{where}.{name}: the field is refused now" for name in before if name not in after)
    for name in before.keys() & after.keys():
        yield from breaks((old[0], before[name]), (new[0], after[name]), way, f"{where}.{name}", seen)
