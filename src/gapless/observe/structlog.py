"""structlog through our lines: `gapless.observe.structlog.configure()` once, at import of the service.

What is logged by structlog then has the request's context, is redacted, and is written without blocking, as everything
that goes through `logging`. Needs `pip install 'gapless[structlog]'`.
"""

from __future__ import annotations

import logging
from typing import Any


def configure(level: int = logging.INFO, **options: Any) -> None:
    """`options` go to `structlog.configure`, and win."""
    import structlog

    structlog.configure(
        **{
            "processors": processors(),
            "logger_factory": structlog.stdlib.LoggerFactory(),
            "wrapper_class": structlog.make_filtering_bound_logger(level),
            "cache_logger_on_first_use": True,
            **options,
        }
    )


def processors() -> list[Any]:
    """For an own chain: put these at its end. The event becomes the message, everything else a key of the line."""
    import structlog

    return [structlog.contextvars.merge_contextvars, _keys_that_logging_takes, structlog.stdlib.render_to_log_kwargs]


_TAKEN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_OWN = frozenset({"event", "exc_info", "stack_info", "stackLevel", "stacklevel"})


def _keys_that_logging_takes(_: Any, __: str, event: Any) -> Any:
    """`logging` refuses extras that are named as its own attributes: they get an underscore."""
    return {(f"{key}_" if key in _TAKEN and key not in _OWN else key): value for key, value in event.items()}
