"""The registry for Prometheus, by its HTTP service discovery: a list of target groups, one for each instance.

    scrape_configs:
      - job_name: services
        http_sd_configs: [{url: "http://127.0.0.1:8500/v1/prometheus/http_sd", refresh_interval: 5s}]

`?service=` and `?tag=` choose (repeated: any of the services, all of the tags), `?passing` leaves out what is not.
Without it critical instances are targets, too: that a target is down is what an alert begins with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gapless.api.consul.answer import Answer, told
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Found, Status

PATH = "/v1/prometheus/http_sd"
ITSELF = "consul"
"""What the registry lists itself as, for clients of Consul. There is nothing to scrape, so it is told only by name."""
LABEL = "__meta_gapless_"
_ODD = re.compile(r"[^a-zA-Z0-9_]")


class HttpSd:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def routes(self) -> tuple[Route, ...]:
        return (Route(PATH, {"GET": self.groups}),)

    async def groups(self, request: Request) -> Answer:
        """Raises Refusal (400) for a `passing` that is neither yes nor no."""
        passing, tags = request.true("passing"), frozenset(request.many("tag"))
        chosen = (
            found
            for found in self._named(request)
            if tags <= frozenset(found.instance.tags) and (not passing or found.status == Status.PASSING)
        )
        return told([group(found, self._catalog.datacenter) for found in chosen])

    def _named(self, request: Request) -> Iterator[Found]:
        view = self._catalog.view
        for service in request.many("service") or sorted(view.services.keys() - {ITSELF}):
            yield from view.instances(service)


def group(found: Found, datacenter: str) -> dict[str, Any]:
    """One instance as a target with its labels. Their names are those of Prometheus' own discovery for Consul, but for
    the prefix, so that relabelling rules can be kept."""
    instance, node = found.instance, found.node.node if found.node else None
    labels = {
        "service": instance.service,
        "service_id": instance.id,
        "service_address": instance.address,
        "service_port": str(instance.port),
        "node": found.row.node,
        "address": node.address if node else "",
        "dc": node.datacenter if node and node.datacenter else datacenter,
        "tags": "".join(f",{tag}" for tag in instance.tags) + "," if instance.tags else "",
        "health": found.status,
        **_meta("service_metadata_", instance.meta),
        **_meta("metadata_", node.meta if node else {}),
    }
    labelled = {f"{LABEL}{name}": value for name, value in labels.items()}
    return {"targets": [_target(found.address, instance.port)], "labels": labelled}


def _meta(prefix: str, meta: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{_ODD.sub('_', key)}": value for key, value in meta.items()}


def _target(host: str, port: int) -> str:
    """An instance without a port is scraped at the scheme's."""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host
