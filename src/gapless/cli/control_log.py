"""The control plane's own log, beside those of the instances: what it did, and what went wrong on the way."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapless.core.events import Event

NAME = "control"
APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_log = logging.getLogger("gapless.control")


@asynccontextmanager
async def control_log(state: Path) -> AsyncIterator[None]:
    """Until the block ends everything that is logged goes into `logs/control.log` as JSON lines; warnings go to the
    terminal, too, as before. A log that cannot be opened stops nothing."""
    from gapless.observe.log import JsonLines, Unblocked

    root, before = logging.getLogger(), (logging.getLogger().handlers[:], logging.getLogger().level)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    try:
        (state / "logs").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            state / "logs" / f"{NAME}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
    except OSError as error:
        _log.warning("the control plane's log cannot be written: %s", error)
        yield
        return
    handler = Unblocked(descriptor)
    handler.setFormatter(JsonLines("", "", NAME))
    root.handlers[:] = [*before[0], handler, *([] if before[0] else [terminal])]
    root.setLevel(min(logging.INFO, before[1]) if before[1] else logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])  # an assignment would leave the loggers' caches behind
        handler.close()
        os.close(descriptor)


def log_event(event: Event) -> None:
    """A hook: what people are told on the terminal is in the log as well."""
    from gapless.cli.up import describe

    if text := describe(event):
        _log.info("%s", text)
