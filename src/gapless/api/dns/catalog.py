"""The registry as DNS reads it: names in any case, and what a service's name leads to, kept until that changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gapless.api.dns.lookup import Target
from gapless.discovery.catalog import topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Found, Status


class Spellings:
    """Names by their lower case. Made anew when the index of what they are names of has moved."""

    def __init__(self) -> None:
        self._index = -1
        self._names: dict[str, list[str]] = {}

    def of(self, lower: str, names: Iterable[str], index: int) -> Sequence[str]:
        """Those among `names`, which stand at `index`, that are written so but for case."""
        if index != self._index:
            self._index, self._names = index, {}
            for name in names:
                self._names.setdefault(name.lower(), []).append(name)
        return self._names.get(lower, ())


class CatalogLookup:
    """Implements `Lookup`."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._services, self._nodes = Spellings(), Spellings()
        self._kept: dict[str, tuple[int, tuple[Target, ...]]] = {}
        """Of each service that was asked for: the index it stood at, and its targets."""

    @property
    def revision(self) -> int:
        return self._catalog.revision

    def targets(self, service: str) -> Sequence[Target]:
        view = self._catalog.view
        names = self._services.of(service, view.services, self._catalog.index(topic.SERVICES))
        return [target for name in names for target in self._of(name)]

    def _of(self, service: str) -> tuple[Target, ...]:
        index = self._catalog.index(topic.health(service))
        kept = self._kept.get(service)
        if kept is None or kept[0] != index:
            self._forget_gone()
            kept = self._kept[service] = index, tuple(map(_target, self._catalog.view.instances(service)))
        return kept[1]

    def _forget_gone(self) -> None:
        services = self._catalog.view.services
        if len(self._kept) > len(services):
            self._kept = {name: kept for name, kept in self._kept.items() if name in services}

    def node_address(self, node: str) -> str | None:
        nodes = self._catalog.view.nodes
        if node not in nodes:
            spelled = self._nodes.of(node, nodes, self._catalog.index(topic.NODES))
            node = spelled[0] if spelled else node
        row = nodes.get(node)
        return row.node.address if row else None


def _target(found: Found) -> Target:
    instance, status = found.instance, found.status
    weights = instance.weights
    return Target(
        node=found.row.node,
        node_address=found.node.node.address if found.node else "",
        port=instance.port,
        address=instance.address,
        tags=instance.tags,
        weight=weights.passing if status == Status.PASSING else weights.warning,
        status=status,
    )
