"""The weights of releases, in Envoy's runtime: a step of a rollout is a few hundred bytes, and no route changes.

A route configuration is one message for all services, which Envoy builds anew whenever anything in it is other than
before: 50 ms of a thousand services. So the routes of a service only say between which releases is drawn, under a key;
what each has stands in the runtime, a resource of its own.

- The key names all that a weight means: releases in their order, salt, and what the weights sum to. Other routes have
  another key, so that no weight is ever taken for what it was not meant for.
- Routes that are sent have the weights of that moment in them as well, for whoever does not ask for the layer (gRPC's
  own client; an Envoy that an earlier version has started), and so that they hold from the first request on. `delta`
  does not send routes in which only these are other than before to an Envoy that asks for the layer.
- All weights of a service change at once: a thread of Envoy's decides a request by one state of the runtime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from gapless.core.model import ServiceTable
from gapless.gateway.envoy.clusters import cluster_name, mark_of
from gapless.gateway.rules import Rule, Source, standing_rules

Json = dict[str, Any]
Weights = Mapping[str, Mapping[str, int]]
"""Key → cluster → weight."""

LAYER = "gapless-weights"
"""Of the runtime."""
KEY = "gapless.weights"


def moves(rule: Rule) -> bool:
    """Whether the rule's weights stand in the runtime: it draws, and no release has two places, which have one name."""
    names = [release for release, _ in rule.shares]
    return rule.draw is not None and len(set(names)) == len(names)


def key_of(service: str, clusters: str, rule: Rule) -> str:
    """`runtime_key_prefix` of the routes for a rule that `moves`; `clusters` begins their names."""
    what = [clusters, rule.salt, str(rule.draw and rule.draw.source is Source.NUMBER), *(r for r, _ in rule.shares)]
    digest = hashlib.blake2b("\0".join(what).encode(), digest_size=6).hexdigest()
    return f"{KEY}.{service}.{digest}"


def weights_of(service: ServiceTable) -> dict[str, dict[str, int]]:
    """Those of a service; nothing when one release has its only place."""
    clusters = service.service + mark_of(service)
    return {
        key_of(service.service, clusters, rule): {cluster_name(clusters, r): weight for r, weight in rule.shares}
        for rule in standing_rules(service)
        if moves(rule)
    }


def layer(weights: Weights) -> Json:
    """envoy.service.runtime.v3.Runtime. Envoy puts the names of nested values together with dots."""
    return {"name": LAYER, "layer": weights}


def weighed(route: Json, weights: Weights) -> Json:
    """A route with the weights of its clusters in it."""
    drawn = _drawn(route)
    if not drawn:
        return route
    mine = weights[drawn["runtime_key_prefix"]]
    clusters = [{**part, "weight": mine[part["name"]]} for part in drawn["clusters"]]
    return {**route, "route": {**route["route"], "weighted_clusters": {**drawn, "clusters": clusters}}}


def whole(configuration: Json, weights: Weights) -> Json:
    """The route configuration with all weights in it."""
    hosts = [
        {**host, "routes": [weighed(route, weights) for route in host["routes"]]}
        for host in configuration["virtual_hosts"]
    ]
    return {**configuration, "virtual_hosts": hosts}


def is_drawn(route: Json) -> bool:
    """Whether the route's weights stand in the runtime."""
    return bool(_drawn(route))


def _drawn(route: Json) -> Json | None:
    found: Json = route.get("route", {}).get("weighted_clusters", {})
    return found if "runtime_key_prefix" in found else None
