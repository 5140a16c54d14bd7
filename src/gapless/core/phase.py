"""The phases of an instance, apart from the rest of the vocabulary: a worker needs no more of it to start."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where an instance is in its life; `core.lifecycle` holds the allowed moves."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DRAINING = "draining"
    STOPPED = "stopped"
