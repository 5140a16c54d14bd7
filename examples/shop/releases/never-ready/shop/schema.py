"""The version of the orders database that this code needs: one whose migration nobody has run."""

from __future__ import annotations

import sqlite3

VERSION = 2

MARKS: tuple[str, ...] = ()


def version_of(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT version FROM schema").fetchone()[0])
