"""How a reload, or a master, ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gapless.core.errors import ReloadRefused

HANDED_ON = -1
"""Instead of an exit code: the server lives on, under another master."""


SERVED = "The old code serves again; what the new one held when it failed was lost. Mend the code and reload again."


class Refusal(ReloadRefused):
    """The new code did not become ready; the old code carries on. `served`: it failed within its bake time."""

    remedy = "Nothing has changed for the clients. Mend the code and reload again."

    def __init__(self, generation: int, reason: str, log: Sequence[str], *, served: bool = False) -> None:
        what = "\n".join([f"generation {generation} was refused: {reason}", *log])
        super().__init__(what, SERVED if served else "")
        self.generation, self.reason, self.log = generation, reason, list(log)


class Reloaded(NamedTuple):
    """What a reload did, and the seconds that each stage took."""

    generation: int
    before: int
    stages: dict[str, float]
    pids: list[int]
