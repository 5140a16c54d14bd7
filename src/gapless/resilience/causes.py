"""What a policy reacts to: kinds of exceptions, or a function that tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Cause = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Any], bool]
"""`on=…`. A function gets the exception; it is not asked about cancellations and the end of the process."""


def causes(on: Cause) -> tuple[tuple[type[BaseException], ...], Callable[[Any], bool] | None]:
    """What to catch, and what to ask then (None: nothing)."""
    if isinstance(on, tuple):
        return on, None
    if isinstance(on, type):
        return (on,), None
    return (Exception,), on


def name_of(on: Cause) -> str:
    """For messages."""
    kinds, asked = causes(on)
    return getattr(asked, "__name__", repr(asked)) if asked else ", ".join(each.__name__ for each in kinds)
