"""Durations as Go writes them (`time.ParseDuration`, `Duration.String`), and so Consul's API too: `10s`, `1m30s`,
`250ms`, `1.5h`. Pure; everything is in seconds."""

from __future__ import annotations

import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]*)")
_LIMIT_S = 2**63 / 1e9
"""Go counts nanoseconds in 64 bits."""


def parse_duration(text: str) -> float:
    """Seconds of it. Raises ValueError with Go's words."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    total = 0.0
    position = 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None:
            raise ValueError(f'time: invalid duration "{text}"')
        total += float(part[1]) * _unit_s(part[2], text)
        position = part.end()
    if not rest or total >= _LIMIT_S:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def _unit_s(unit: str, text: str) -> float:
    if not unit:
        raise ValueError(f'time: missing unit in duration "{text}"')
    if unit not in _UNITS_S:
        raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
    return _UNITS_S[unit]


def format_duration(seconds: float) -> str:
    """As Go prints it: `1m30s`, `250ms`, `24h0m0s`, `0s`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    nanos = round(seconds * 1e9)
    if nanos == 0:
        return "0s"
    if nanos < 10**9:
        return _small(nanos)
    whole, fraction = divmod(nanos, 10**9)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest}{_decimals(fraction, 9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _small(nanos: int) -> str:
    if nanos < 10**3:
        return f"{nanos}ns"
    unit, size, digits = ("µs", 10**3, 3) if nanos < 10**6 else ("ms", 10**6, 6)
    return f"{nanos // size}{_decimals(nanos % size, digits)}{unit}"


def _decimals(fraction: int, digits: int) -> str:
    return f".{fraction:0{digits}d}".rstrip("0") if fraction else ""
