"""What is left out of a snapshot: patterns in the manner of .gitignore, as pure functions.

Blank lines and lines that begin with `#` say nothing; `!` takes back; a `/` at the end means directories only; a `/`
anywhere else ties the pattern to the top of the tree; `*`, `?`, `[…]` stay within a name and `**` spans directories.
The last pattern that matches decides. What lies below a directory that is left out is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

IGNORE_FILE = ".gaplessignore"

DEFAULTS = """
.git/
.hg/
.svn/
.gapless/
.venv/
node_modules/
__pycache__/
*.pyc
.mypy_cache/
.pytest_cache/
.ruff_cache/
"""
"""Never part of a release unless the ignore file takes it back with `!`."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line. `regex` is matched against the whole path, relative to the top, with `/` between names."""

    regex: re.Pattern[str]
    keep: bool
    directories_only: bool


def patterns(text: str) -> tuple[Pattern, ...]:
    """The patterns of an ignore file."""
    lines = (line.rstrip() for line in text.splitlines())
    return tuple(_pattern(line) for line in lines if line and not line.startswith("#"))


def ignored(rules: Sequence[Pattern], path: str, is_directory: bool) -> bool:
    """Whether the last matching rule leaves the path out."""
    for rule in reversed(rules):
        if (is_directory or not rule.directories_only) and rule.regex.fullmatch(path):
            return not rule.keep
    return False


def _pattern(line: str) -> Pattern:
    keep = line.startswith("!")
    body = line[1:] if keep else line
    directories_only = body.endswith("/")
    body = body.rstrip("/")
    anchored = "/" in body
    regex = _translate(body.lstrip("/"))
    return Pattern(re.compile(regex if anchored else f"(?:.*/)?{regex}", re.DOTALL), keep, directories_only)


_TOKEN = re.compile(
    r"(?P<deep>\*\*/)|(?P<all>\*\*)|(?P<star>\*)|(?P<one>\?)|\[(?P<not>[!^]?)(?P<set>\]?[^\]/]*)\]|(?P<raw>.)",
    re.DOTALL,
)


def _translate(glob: str) -> str:
    return "".join(_piece(found) for found in _TOKEN.finditer(glob))


def _piece(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "deep":
            return "(?:.*/)?"
        case "all":
            return ".*"
        case "star":
            return "[^/]*"
        case "one":
            return "[^/]"
        case "set" if found["set"]:
            return _set(found["set"], bool(found["not"]))
        case _:
            return re.escape(found[0])


def _set(members: str, negated: bool) -> str:
    inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", members)
    try:
        re.compile(f"[{inner}]")
    except re.error:
        return re.escape(f"[{members}]")  # such as `[z-a]`: no set, so its own characters are meant
    return f"[^/{inner}]" if negated else f"[{inner}]"
