"""Regular expressions that clients send: Go's syntax, and matched in linear time, so that none can stop the others."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

from gapless.api.consul.answer import bad_request
from gapless.core.errors import ConfigError

LONGEST = 1024
"""Characters."""


class Pattern(Protocol):
    def search(self, text: str) -> Any: ...


@lru_cache(maxsize=256)
def compiled(text: str, complaint: str = "Invalid regular expression") -> Pattern:
    """Raises Refusal (400) with the complaint; ConfigError when the extra is not installed."""
    if len(text) > LONGEST:
        raise bad_request(f"{complaint}: longer than {LONGEST} characters")
    try:
        import re2
    except ImportError as error:
        raise ConfigError(
            "regular expressions of the registry need the package google-re2", "pip install 'gapless[registry]'"
        ) from error
    options = re2.Options()
    options.log_errors = False
    try:
        pattern: Pattern = re2.compile(text, options=options)
    except re2.error as error:
        detail = error.args[0]
        raise bad_request(f"{complaint}: {detail.decode() if isinstance(detail, bytes) else detail}") from error
    return pattern
