"""What the next master must know, saved with the keeper before anything follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapless.server.generations import generation as g
from gapless.server.master.keep import Keep
from gapless.server.master.plain import to_plain

STATE = "state"
"""The name under which the keeper holds it."""


class Record:
    """Saves what has changed, again and again until there was room for it. Beats alone are not worth it."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._saved: Any = None

    def save(self, state: g.State, pids: Mapping[int, int], stops: int, terminal: bool) -> None:
        """`pids` by the workers' keys; `stops`: how many signals to stop have been obeyed; `terminal`: whether the
        server was started on one."""
        quiet = state._replace(workers=tuple(worker._replace(beat_at=0.0) for worker in state.workers))
        if (quiet, pids, stops) == self._saved:
            return
        plain = {"state": to_plain(state), "pids": list(pids.items()), "stops": stops, "terminal": terminal}
        if self._keep.save(STATE, plain):
            self._saved = (quiet, dict(pids), stops)
