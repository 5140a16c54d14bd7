"""Envoy's reasons for a refusal, for people.

Envoy says what it was given before it says what is wrong with it, and cuts off the whole after 4 kB; its log has all of
it. What stays here is the reason, in its words.
"""

from __future__ import annotations

UNSAID = "a value is not valid"
"""When the reason was cut off."""

_INVALID = "Proto constraint validation failed"
_DUMP = "goo.gle/debug"
"""With this (and then `str`, `proto` or `only`, drawn by each process) protobuf begins what it prints for people."""


def plain(text: str) -> str:
    """The reason in an error of a discovery request, or UNSAID."""
    said, dumped, _ = text.partition(_DUMP)
    return _invalid(text) or " ".join(said.split()).removesuffix(":") or (UNSAID if dumped else "no reason given")


def logged(log: str) -> str:
    """The reason that Envoy's log ends with, or an empty string."""
    return _invalid(log).partition("\n")[0]


def _invalid(text: str) -> str:
    _, found, reason = text.rpartition(_INVALID)
    return found + reason.rstrip() if found else ""
