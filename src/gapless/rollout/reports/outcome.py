"""What a gate has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OUTPUT_LINES = 40
OUTPUT_BYTES = 8_000
"""Of a gate's last words: they travel through the store and onto a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOutcome:
    """`reason` is a sentence, also of a pass."""

    passed: bool
    reason: str
    output: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


def passes(reason: str, output: str = "", numbers: Mapping[str, float] | None = None) -> GateOutcome:
    return GateOutcome(passed=True, reason=reason, output=last_words(output), numbers=numbers or {})


def refuses(reason: str, output: str = "", numbers: Mapping[str, float] | None = None) -> GateOutcome:
    return GateOutcome(passed=False, reason=reason, output=last_words(output), numbers=numbers or {})


def last_words(text: str) -> str:
    """The last lines of an output, bounded."""
    lines = text.rstrip().splitlines()[-OUTPUT_LINES:]
    return "\n".join(lines)[-OUTPUT_BYTES:]


def counted(number: int, noun: str) -> str:
    """`1 test`, `2 tests`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
