"""What gates and mirrors of past rollouts have left in the state directory: reports and last words."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gapless.control.records import Records

_log = logging.getLogger("gapless.control")

ROLLOUTS_KEPT = 20
"""Of each service, counted back from the newest: as many as there are drawings of (`control.lookbook`)."""


def leavings(state: Path, service: str, number: int) -> Path:
    """The directory of a rollout's gates and mirror."""
    return state / "gates" / f"{service}-{number}"


def outlived(names: Iterable[str], newest: Mapping[str, int]) -> list[str]:
    """Those directories that nobody will look at again. `newest`: the number of each service's newest rollout, 0 of one
    that has had none; all of a service that is not there has been outlived. What has another kind of name is somebody
    else's."""
    found = []
    for name in names:
        service, _, number = name.rpartition("-")
        if not (service and number.isascii() and number.isdecimal()):
            continue
        if service not in newest or int(number) <= newest[service] - ROLLOUTS_KEPT:
            found.append(name)
    return found


class Leavings:
    """`tidy` removes what has been outlived, that of services that have left included."""

    def __init__(self, records: Records, state: Path) -> None:
        self._records = records
        self._home = state / "gates"

    async def tidy(self) -> None:
        rollouts = {service.name: self._records.rollout(service.name) for service in self._records.services()}
        newest = {name: rollout.number if rollout else 0 for name, rollout in rollouts.items()}
        await asyncio.to_thread(self._tidy, newest)

    def _tidy(self, newest: Mapping[str, int]) -> None:
        if not self._home.is_dir():
            return
        for name in outlived((path.name for path in self._home.iterdir()), newest):
            try:
                shutil.rmtree(self._home / name)
            except OSError as error:
                _log.warning("%s is left over and cannot be removed: %s", self._home / name, error)
