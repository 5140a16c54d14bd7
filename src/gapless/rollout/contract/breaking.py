"""What callers of one release would miss in the next, from their OpenAPI documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gapless.rollout.contract.schema import Way, breaks
from gapless.rollout.contract.spec import Operation, Spec


def breaking(old: Spec, new: Spec) -> list[str]:
    """A sentence for each breaking change, sorted. Raises ValueError for references that lead nowhere."""
    after = {operation.key: operation for operation in new.operations()}
    found: list[str] = []
    for operation in old.operations():
        if operation.key in after:
            found += _operation(operation, after[operation.key])
        else:
            found.append(f"{operation.name}: it is gone")
    return sorted(set(found))


def permitted(found: Sequence[str], allow: Sequence[str]) -> list[str]:
    """Those that no text of `allow` is a part of."""
    return [one for one in found if not any(text in one for text in allow)]


def _operation(old: Operation, new: Operation) -> Iterator[str]:
    yield from _parameters(old, new)
    yield from _body(old, new)
    yield from _responses(old, new)


def _parameters(old: Operation, new: Operation) -> Iterator[str]:
    before, after = _by_place(old), _by_place(new)
    for key, parameter in after.items():
        where = f"{old.name}: {parameter['in']} parameter {parameter['name']}"
        if parameter.get("required") and not before.get(key, {}).get("required"):
            yield f"{where} is required now"
        if key in before:
            sides = (old.spec, before[key].get("schema", {})), (new.spec, parameter.get("schema", {}))
            yield from breaks(*sides, "sent", where)


def _by_place(operation: Operation) -> dict[tuple[str, str | int], Mapping[str, Any]]:
    """Those in the path by their position: their names are nobody's business."""
    found = operation.parameters()
    path = [part.strip("{}") for part in operation.path.split("/") if "{" in part]
    return {
        (place, path.index(name) if place == "path" and name in path else name): parameter
        for (place, name), parameter in found.items()
    }


def _body(old: Operation, new: Operation) -> Iterator[str]:
    before, after = old.body(), new.body()
    if after.get("required") and not before.get("required"):
        yield f"{old.name}: the body is required now"
    if before and after:
        yield from _contents(old, new, before, after, "sent", f"{old.name}: body")


def _responses(old: Operation, new: Operation) -> Iterator[str]:
    after = new.responses()
    for status, response in old.responses().items():
        if status in after:
            yield from _contents(old, new, response, after[status], "got", f"{old.name}: {status}")
        elif status.startswith("2") and not {"2XX", "default"} & after.keys():
            yield f"{old.name}: {status} is no longer answered"


def _contents(
    old: Operation, new: Operation, before: Mapping[str, Any], after: Mapping[str, Any], way: Way, where: str
) -> Iterator[str]:
    offered = after.get("content", {})
    for kind, media in before.get("content", {}).items():
        if kind not in offered:
            yield f"{where}: {kind} is gone"
        else:
            sides = (old.spec, media.get("schema", {})), (new.spec, offered[kind].get("schema", {}))
            yield from breaks(*sides, way, f"{where} $")
