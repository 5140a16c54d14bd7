"""Releases for the demonstration: the shop's code with a small change laid over it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Made:
    """`version` of `orders`, in a directory of its own."""

    version: str
    overlay: str
    why: str


GOOD = Made("1.1.0", "good", "receipts show the total")
BAD = Made("1.2.0-bad", "bad", "receipts show a bonus (and one in five fails)")
NEVER_READY = Made("1.2.0-unmigrated", "never-ready", "needs a database that nobody has migrated")
CRASH = Made("1.2.0-crash", "crash", "imports a package that is not installed")
BETTER = Made("1.2.0", "better", "receipts show the day of delivery")


def build(made: Made, root: Path) -> Path:
    """A copy of the shop with the overlay's files in place of its own."""
    place = root / made.version
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "shop", place / "shop", ignore=ignore)
    shutil.copytree(HERE / "releases" / made.overlay, place, ignore=ignore, dirs_exist_ok=True)
    return place
