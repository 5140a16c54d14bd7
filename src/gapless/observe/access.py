"""Which requests an access log has a line for. Pure but for its count."""

from __future__ import annotations

SLOW_S = 1.0


class Sampled:
    """A share (0…1), evenly: one of so many; those that failed or took `SLOW_S` always."""

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._due = 0.0

    def chosen(self, failed: bool, took_s: float) -> bool:
        if self._share >= 1.0:
            return True
        self._due += self._share
        if self._due >= 1.0:
            self._due -= 1.0
            return True
        return failed or took_s >= SLOW_S
