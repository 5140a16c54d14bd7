"""Regular expressions of routes: RE2, which is what Envoy matches by, in linear time whatever is sent. They are checked
when the file is read, by the same engine."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

from gapless.core.errors import ConfigError

LARGEST = 10_000
"""Steps of RE2's program. What the gateway takes at most is far above it (`gateway.envoy.bootstrap`)."""


class Pattern(Protocol):
    programsize: int

    def fullmatch(self, text: str) -> Any: ...


@lru_cache(maxsize=1_000)
def compiled(text: str) -> Pattern:
    """Raises ValueError in RE2's words; ConfigError when google-re2 is not installed."""
    try:
        import re2
    except ImportError as error:
        raise ConfigError(
            "regular expressions of routes need the package google-re2", "pip install 'gapless[gateway]'"
        ) from error
    options = re2.Options()
    options.log_errors = False
    try:
        pattern: Pattern = re2.compile(text, options=options)
    except re2.error as error:
        said = error.args[0]
        raise ValueError(
            f"not an expression of RE2: {said.decode() if isinstance(said, bytes) else said}; "
            "there is no looking around and no back-reference (https://github.com/google/re2/wiki/Syntax)"
        ) from error
    return pattern


def expression(text: str) -> str:
    """The expression, if it is one. Raises as `compiled`."""
    size = compiled(text).programsize
    if size > LARGEST:
        raise ValueError(f"an expression of {size} steps; {LARGEST} at most")
    return text
