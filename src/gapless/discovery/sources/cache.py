"""What was known last, kept in a directory over a restart of the caller: a file per service.

So a caller that starts while its registry is away finds the others where they were. Several processes may share the
directory: each file is replaced as a whole, and the latest word counts.
"""

from __future__ import annotations

import logging
import os
from urllib.parse import quote

from gapless.core.codec import decode, encode
from gapless.core.errors import StoreBroken
from gapless.core.model import ServiceTable

_log = logging.getLogger("gapless.discovery")


class Cache:
    """Blocks while it reads and writes. What cannot be kept is logged and costs nothing else."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._complained = False

    def read(self, service: str) -> ServiceTable | None:
        """None when nothing was kept, or nothing that can be read."""
        path = self._path(service)
        try:
            with open(path, "rb") as file:
                return decode(file.read(), ServiceTable)
        except FileNotFoundError:
            return None
        except (OSError, StoreBroken) as error:
            _log.warning("cannot use %s, which is ignored: %s", path, error)
            return None

    def write(self, table: ServiceTable) -> None:
        path = self._path(table.service)
        temporary = f"{path}.{os.getpid()}"
        try:
            os.makedirs(self._directory, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(encode(table))
            os.replace(temporary, path)
        except OSError as error:
            level = logging.DEBUG if self._complained else logging.WARNING
            self._complained = True
            _log.log(level, "cannot keep where %s is: %s", table.service, error)

    def _path(self, service: str) -> str:
        return os.path.join(self._directory, f"{quote(service, safe='')}.json")
