"""What can be waited for in the registry (`discovery.topics`): each is a tuple, the kind first."""

from __future__ import annotations

from gapless.discovery.catalog.values import Status

Topic = tuple[str, ...]

SERVICES: Topic = ("services",)
"""The names of all services, and the tags of each."""
NODES: Topic = ("nodes",)
"""The rows of all nodes."""
CHECKS: Topic = ("checks",)
"""All checks."""


def health(service: str) -> Topic:
    """All of a service: its instances with their nodes and checks."""
    return ("health", service)


def instances(service: str) -> Topic:
    """The instances of a service and their nodes, without the checks."""
    return ("instances", service)


def checks_of(service: str) -> Topic:
    """The checks of a service's instances."""
    return ("checks-of", service)


def node(name: str) -> Topic:
    """A node and the instances on it, without the checks."""
    return ("node", name)


def checks_on(node: str) -> Topic:
    """The checks on a node: its own, and those of its instances."""
    return ("checks-on", node)


def state(status: str) -> Topic:
    """The checks of a status. `any` is all of them."""
    return CHECKS if status == "any" else ("state", status)


STATES: tuple[Topic, ...] = (CHECKS, *(state(status) for status in Status))
