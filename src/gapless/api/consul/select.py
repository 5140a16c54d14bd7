"""Which rows a read is about: tags, metadata of nodes, a filter expression; and in which order: near ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from gapless.api.consul.answer import bad_request
from gapless.api.consul.filter import filter_of
from gapless.api.consul.request import Request
from gapless.discovery.catalog.values import CheckRow, Found, NodeRow

T = TypeVar("T")

AGENT = "_agent"
"""As `?near`: the agent that is asked."""


def chosen(request: Request, found: Iterable[Found], agent: str) -> list[Found]:
    """By `tag`, `node-meta`, `peer` and `near`. Raises Refusal."""
    tags, metas = [tag.lower() for tag in request.many("tag")], metas_of(request)
    if request.text("peer"):
        return []
    rows = [
        one
        for one in found
        if (not tags or _has_tags(one, tags)) and (not metas or (one.node is not None and has_meta(one.node, metas)))
    ]
    return near(request, rows, agent, lambda one: one.row.node)


def near(request: Request, rows: list[T], agent: str, node_of: Callable[[T], str]) -> list[T]:
    """Those on the node of `near` first. Between nodes no distances are known here."""
    wanted = request.text("near")
    if not wanted:
        return rows
    node = agent if wanted == AGENT else wanted
    return sorted(rows, key=lambda row: node_of(row) != node)


def by_meta(request: Request, rows: Iterable[CheckRow], node: Callable[[str], NodeRow | None]) -> list[CheckRow]:
    """Checks whose nodes have the metadata of `node-meta`. Raises Refusal."""
    metas = metas_of(request)
    if not metas:
        return list(rows)
    return [row for row in rows if (on := node(row.check.node)) is not None and has_meta(on, metas)]


def metas_of(request: Request) -> list[tuple[str, str]]:
    """Of `node-meta=key:value`, which may be repeated. Raises Refusal."""
    pairs = [text.partition(":") for text in request.many("node-meta")]
    if any(not key for key, _, _ in pairs):
        raise bad_request("Invalid node-meta: write key:value")
    return [(key, value) for key, _, value in pairs]


def has_meta(row: NodeRow, metas: Iterable[tuple[str, str]]) -> bool:
    return all(row.node.meta.get(key) == value for key, value in metas)


def kept(request: Request, fragments: Iterable[bytes]) -> Iterator[bytes]:
    """Those that the `filter` expression is true of. Raises Refusal."""
    keep = keeper(request)
    return (one for one in fragments if keep(one))


def keeper(request: Request) -> Callable[[bytes], bool]:
    """Whether a JSON fragment is one that the `filter` expression is true of. Raises Refusal."""
    text = request.text("filter")
    if not text:
        return lambda fragment: True
    keep = filter_of(text)
    return lambda fragment: keep(msgspec.json.decode(fragment))


def _has_tags(found: Found, tags: list[str]) -> bool:
    own = {tag.lower() for tag in found.instance.tags}
    return own.issuperset(tags)
