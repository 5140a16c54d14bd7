"""What may differ: JSON paths and names of headers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_PARTS = re.compile(r"\.\.|\.\*|\[\*\]|\[\d+\]|\[['\"]([^'\"]*)['\"]\]|\.([^.\[\]*]+)")


@dataclass(frozen=True, slots=True)
class Masks:
    """`paths`: places of a body, and all below them; `headers`: lower-case names."""

    paths: tuple[re.Pattern[str], ...] = ()
    headers: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, ignore: Iterable[str]) -> Masks:
        """`$.served_at`, `$.items[*].etag`, `$..etag`, `$.prices.*`; what does not begin with `$` is a header. Raises
        ValueError for a path that cannot be read."""
        names = list(ignore)
        paths = tuple(pattern(name) for name in names if name.startswith("$"))
        return cls(paths, frozenset(name.lower() for name in names if not name.startswith("$")))

    def hide(self, place: str) -> bool:
        return any(path.match(place) for path in self.paths)


def pattern(path: str) -> re.Pattern[str]:
    """Matches the place that a path names, and every place below it. Raises ValueError."""
    found, at = "", 1
    while at < len(path):
        part = _PARTS.match(path, at)
        if part is None:
            raise ValueError(f"{path} is no JSON path from character {at + 1} on; write for instance $.items[*].etag")
        found += _part(part)
        at = part.end()
        if part[0] == "..":
            at -= 1  # what follows is a name with its dot
    return re.compile(rf"\${found}(?=$|[.\[])")


def _part(part: re.Match[str]) -> str:
    match part[0]:
        case "..":
            return r"(?:[.\[].*)?"
        case ".*":
            return r"\.[^.\[]+"
        case "[*]":
            return r"\[\d+\]"
        case text if text[1:-1].isdecimal() and text.startswith("["):
            return re.escape(text)
        case _:
            return re.escape(f".{part[1] if part[1] is not None else part[2]}")
