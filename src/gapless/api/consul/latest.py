"""The newest answer, for those who ask the same in the same moment: whoever watched a service is woken with all others,
and each of a hundred answers would be joined from the same fragments."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from gapless.api.consul.request import Query

WAITING = frozenset({"index", "wait", "stale", "consistent", "token", "pretty", "dc"})
"""What does not change what is found."""


class Latest:
    """One answer is enough: changes are told topic by topic."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._body = b""

    def body(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """That of the key, made unless it was the last one. The key must tell apart whatever may differ. Raises what
        `make` raises."""
        if key != self._key:
            self._key, self._body = key, make()
        return self._body


def asked(query: Query) -> Hashable:
    """What a query looks for, however it waits."""
    return tuple((name, tuple(values)) for name, values in query.items() if name not in WAITING)
