"""The version of the orders database that this code needs, and the mark in the file that tells which one it has."""

from __future__ import annotations

import sqlite3

VERSION = 1

MARKS = (
    "CREATE TABLE IF NOT EXISTS schema (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL)",
    "INSERT INTO schema VALUES (1, 1) ON CONFLICT DO NOTHING",
)
"""A new file begins with version 1; migrations raise it."""


def version_of(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT version FROM schema").fetchone()[0])
