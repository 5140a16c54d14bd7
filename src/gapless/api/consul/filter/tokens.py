"""The words of a filter expression, each with its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

LONGEST = 8192
"""Characters."""
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)
    |(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?![\w]))
    |(?P<word>[A-Za-z][A-Za-z0-9_/-]*)
    |(?P<sign>==|!=|[().\[\]])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


class FilterError(ValueError):
    """The expression means nothing; says where."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(f"1:{at + 1} ({at}): {what}")


class Token(NamedTuple):
    kind: str
    """`string`, `number`, `word`, `sign`, or `end`."""
    text: str
    """Of a string, what it stands for."""
    at: int
    glued: bool
    """No space before it."""


def tokens(text: str) -> Sequence[Token]:
    """Ends with one of kind `end`. Raises FilterError."""
    if len(text) > LONGEST:
        raise FilterError(LONGEST, f"longer than {LONGEST} characters")
    found: list[Token] = []
    at, glued = 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise FilterError(at, f"no match found for {text[at]!r}")
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(Token(kind, _unquoted(match[0]) if kind == "string" else match[0], at, glued))
        glued = kind != "space"
        at = match.end()
    return [*found, Token("end", "", len(text), False)]


def _unquoted(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text[1:-1])
