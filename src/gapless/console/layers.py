"""Places for the nodes of a directed graph: each in a layer right of all that lead to it. Pure.

An edge over several layers gets a lane of its own in each layer between, so that it leads around the nodes there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 176.0, 80.0
LANE = 22.0
GAP_X, GAP_Y = 92.0, 26.0
MARGIN = 10.0
SWEEPS = 6

Edge = tuple[str, str]
Point = tuple[float, float]
_Lane = tuple[str, str, int]
"""Of an edge, in a layer that it only passes."""
_Item = str | _Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The upper left corner of a node of WIDTH by HEIGHT."""

    x: float
    y: float

    @property
    def right(self) -> float:
        return self.x + WIDTH

    @property
    def middle(self) -> float:
        return self.y + HEIGHT / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`ways`: the points that each edge leads through, from the right side of its source to the left of its target."""

    places: Mapping[str, Place]
    ways: Mapping[Edge, tuple[Point, ...]]
    width: float
    height: float


def layout(nodes: Sequence[str], edges: Sequence[Edge]) -> Layout:
    """Nobody overlaps; edges lead to the right, except those that close a circle."""
    known = [edge for edge in dict.fromkeys(edges) if edge[0] in nodes and edge[1] in nodes and edge[0] != edge[1]]
    forward = _without_circles(nodes, known)
    depth = _depths(nodes, forward)
    columns, links = _with_lanes(nodes, forward, depth)
    columns = _ordered(columns, links)
    height = max((_tall(column) for column in columns), default=0.0) + 2 * MARGIN
    tops = {item: top for column in columns for item, top in _tops(column, height)}
    places = {node: Place(x=_left(depth[node]), y=tops[node]) for node in nodes}
    ways = {edge: _way(edge, places, depth, tops) for edge in known}
    return Layout(places=places, ways=ways, width=_left(len(columns)) - GAP_X + MARGIN, height=height)


def _left(column: int) -> float:
    return MARGIN + column * (WIDTH + GAP_X)


def _without_circles(nodes: Sequence[str], edges: Sequence[Edge]) -> list[Edge]:
    """The edges in order, leaving out each that would close a circle with those before it."""
    after: dict[str, set[str]] = {node: set() for node in nodes}
    kept = []
    for source, target in edges:
        if source not in _reach(target, after):
            after[source].add(target)
            kept.append((source, target))
    return kept


def _reach(start: str, after: Mapping[str, set[str]]) -> set[str]:
    found, todo = {start}, [start]
    while todo:
        new = after[todo.pop()] - found
        found |= new
        todo += new
    return found


def _depths(nodes: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The longest way to each. Who stands alone is beside the services, not beside the way in."""
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for source, target in edges:
            depth[target] = max(depth[target], depth[source] + 1)
    alone = set(nodes) - {node for edge in edges for node in edge}
    return depth | {node: min(1, max(depth.values())) for node in alone}


def _with_lanes(
    nodes: Sequence[str], edges: Sequence[Edge], depth: Mapping[str, int]
) -> tuple[list[list[_Item]], list[tuple[_Item, _Item]]]:
    columns: list[list[_Item]] = [
        [n for n in nodes if depth[n] == c] for c in range(max(depth.values(), default=0) + 1)
    ]
    links: list[tuple[_Item, _Item]] = []
    for source, target in edges:
        lanes: list[_Item] = [(source, target, column) for column in range(depth[source] + 1, depth[target])]
        for number, lane in enumerate(lanes):
            columns[depth[source] + 1 + number].append(lane)
        stops: list[_Item] = [source, *lanes, target]
        links += pairwise(stops)
    return columns, links


def _ordered(columns: list[list[_Item]], links: Sequence[tuple[_Item, _Item]]) -> list[list[_Item]]:
    """Few crossings: each column by the mean place of its neighbours in the column before, then after, and so on."""
    for sweep in range(SWEEPS):
        row = {item: (place + 0.5) / len(column) for column in columns for place, item in enumerate(column)}
        near: dict[_Item, list[float]] = {}
        for before, after in links:
            one, other = (before, after) if sweep % 2 else (after, before)
            near.setdefault(one, []).append(row[other])
        columns = [sorted(column, key=lambda item: _mean(near.get(item), row[item])) for column in columns]
    return columns


def _mean(values: Sequence[float] | None, otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _high(item: _Item) -> float:
    return HEIGHT if isinstance(item, str) else LANE


def _tall(column: Sequence[_Item]) -> float:
    return sum(map(_high, column)) + GAP_Y * (len(column) - 1)


def _tops(column: Sequence[_Item], height: float) -> list[tuple[_Item, float]]:
    """From the top to the bottom, the whole in the middle."""
    found, top = [], (height - _tall(column)) / 2
    for item in column:
        found.append((item, top))
        top += _high(item) + GAP_Y
    return found


def _way(
    edge: Edge, places: Mapping[str, Place], depth: Mapping[str, int], tops: Mapping[_Item, float]
) -> tuple[Point, ...]:
    source, target = edge
    points = [(places[source].right, places[source].middle)]
    for column in range(depth[source] + 1, depth[target]):
        y = tops[source, target, column] + LANE / 2
        points += [(_left(column), y), (_left(column) + WIDTH, y)]
    return (*points, (places[target].x, places[target].middle))
