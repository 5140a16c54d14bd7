"""What the memory holds, by type: objects and bytes; and what of it has grown, with the names that keep it alive.

Only what the collector tracks can be listed; the rest (texts, bytes, numbers) is found through what refers to it. Sizes
are those of the objects themselves (`sys.getsizeof`), so that nothing counts twice.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable
from typing import Any

from gapless.observe.profile import Frame, Measure, Profile

MEASURES = (Measure("objects", "count"), Measure("space", "bytes"))
GROWN_SHOWN = 5
"""Types whose holders are looked for: each look goes through the whole memory some times."""
LONGEST_CHAIN = 8


def heap(at: float | None = None) -> Profile:
    """By type. Call it in a thread: a million objects take a second, in which the loop should go on."""
    began = time.monotonic()
    found: dict[type, list[int]] = {}
    seen: set[int] = set()
    for thing in gc.get_objects():
        _count(found, thing)
        for referent in gc.get_referents(thing):
            if not gc.is_tracked(referent) and id(referent) not in seen:
                seen.add(id(referent))
                _count(found, referent)
    samples: dict[tuple[Frame, ...], tuple[int, ...]] = {
        (Frame(name_of(kind)),): (count, size) for kind, (count, size) in found.items()
    }
    return Profile(MEASURES, samples, at=at or time.time(), took_s=time.monotonic() - began)


def _count(found: dict[type, list[int]], thing: Any) -> None:
    kind = type(thing)
    counts = found.get(kind)
    if counts is None:
        counts = found[kind] = [0, 0]
    counts[0] += 1
    try:
        counts[1] += sys.getsizeof(thing)
    except Exception:  # noqa: BLE001 - a foreign __sizeof__ may do anything; its object still counts
        return


def name_of(kind: type) -> str:
    """`dict`, `shop.orders.Order`."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def holders(names: Iterable[str]) -> dict[str, str]:
    """For types by name, what keeps their largest object alive, as a path from a module: `shop.orders.CACHE → dict →
    list`. For a worker that serves nobody any more: it takes seconds."""
    largest: dict[str, Any] = {}
    wanted = set(names)
    for thing in gc.get_objects():
        name = name_of(type(thing))
        if name in wanted and sys.getsizeof(thing) >= sys.getsizeof(largest.get(name, 0)):
            largest[name] = thing
    return {name: chain(thing) for name, thing in largest.items()}


def chain(thing: Any) -> str:
    """The shortest way from a module to an object. Empty when there is none within `LONGEST_CHAIN` steps."""
    import objgraph

    way = objgraph.find_backref_chain(thing, objgraph.is_proper_module, max_depth=LONGEST_CHAIN)
    if not objgraph.is_proper_module(way[0]):
        return ""
    return " → ".join(_steps(way))


def _steps(way: list[Any]) -> list[str]:
    """A module's dictionary is not shown: the name in it is."""
    module, *rest = way
    if rest and isinstance(rest[0], dict) and rest[0] is vars(module):
        space, *rest = rest
        name = next((key for key, value in space.items() if rest and value is rest[0]), "?")
        return [f"{module.__name__}.{name}", *(name_of(type(thing)) for thing in rest)]
    return [module.__name__, *(name_of(type(thing)) for thing in rest)]
