"""Numbers and moments as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

NOTHING = "\N{EN DASH}"


def rate(per_s: float | None) -> str:
    """Requests per second, in three digits at most."""
    if per_s is None:
        return NOTHING
    if per_s >= 9_950:
        return f"{per_s / 1000:.0f}k"
    if per_s >= 995:
        return f"{per_s / 1000:.1f}k"
    return f"{per_s:.0f}" if per_s >= 99.5 or per_s == 0 else f"{per_s:.1f}"


def took(seconds: float | None) -> str:
    """A latency."""
    if seconds is None:
        return NOTHING
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def percent(share: float | None) -> str:
    """A share of 0…1. Small ones keep a digit, so that few errors are not none."""
    if share is None:
        return NOTHING
    value = share * 100
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    if value < 0.01:
        return "< 0.01 %"
    return f"{value:.2f} %" if value < 0.995 else f"{value:.1f} %"


def weight(share: float) -> str:
    """A share of the users, as it was written: `1 %`, `33.3 %`."""
    return f"{share * 100:.3g} %"


def lasted(seconds: float) -> str:
    """A time span in two units: `1 h 5 min`, `42 s`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 and whole < 600 else "")
    if whole < 86_400:
        return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")
    return f"{whole // 86_400} d" + (f" {whole % 86_400 // 3600} h" if whole % 86_400 >= 3600 else "")


def count(number: float) -> str:
    """`12 345`, with narrow spaces."""
    return f"{number:,.0f}".replace(",", "\u202f")


def times(factor: float | None) -> str:
    """How many times as much: `0`, `0.42`, `23.6`, `1230`, and the sign."""
    if factor is None:
        return NOTHING
    digits = "2g" if factor < 1 else "3g" if factor < 999.5 else "0f"
    return f"{factor:.{digits}}" + "\N{MULTIPLICATION SIGN}"


def evidence(value: float) -> str:
    """E of an e-process: three digits, powers of ten when it is very large or small."""
    if not math.isfinite(value):
        return "∞"
    if 0.01 <= value < 10_000:
        return f"{value:.3g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}·10{str(int(power)).translate(_RAISED)}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def iso(at: float) -> str:
    """For the `datetime` of a `time` element."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def clock(at: float) -> str:
    """The time of day in UTC; what is shown until the browser has turned it into its own."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%A, %-d %B %Y")
