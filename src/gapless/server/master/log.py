"""The master's own lines: as its workers write theirs (`observe.log`), but without the imports of that."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

from gapless.core.errors import Busy, GaplessError

_log = logging.getLogger("gapless.server")

MARKS = (("service", "GAPLESS_SERVICE"), ("release", "GAPLESS_RELEASE"), ("instance", "GAPLESS_INSTANCE"))


class JsonLines(logging.Formatter):
    """Time, level, logger, message, service, release, instance, error."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{at}.{int(record.msecs):03d}+00:00", "level": record.levelname.lower()}
        line |= {"logger": record.name, "message": record.getMessage()}
        line |= {name: os.environ[variable] for name, variable in MARKS if os.environ.get(variable)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"), ensure_ascii=False)


def log_to_stderr() -> None:
    """To be called once, by the process that is the master. People get plain lines, programs JSON."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(plain if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def log_outcome(task: asyncio.Future[Any]) -> None:
    """What a signal asked for has nobody who waits for its answer; a refusal was logged where it happened."""
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, Busy):
        _log.warning("ignored, because another change is under way: %s", error.what)
    elif error is not None and not isinstance(error, GaplessError):
        _log.error("failed", exc_info=error)
