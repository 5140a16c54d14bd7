"""A dry run in words."""

from __future__ import annotations

from typing import Any

from gapless.cli.output import plain_table


def told(outline: dict[str, Any]) -> str:
    """What would happen, a line for each thing; then how it ends, and what to think of before."""
    rows = [_row(happening) for happening in outline["happenings"]]
    ends = ", ".join(f"{service} {end}" for service, end in outline["ends"].items())
    lines = [
        *plain_table(("after", "service", "users", "instances", "what", "why"), rows),
        "",
        f"about {span(outline['duration_s'])}, if all goes well: {ends}",
        *(f"warning: {warning}" for warning in outline["warnings"]),
    ]
    return "\n".join(lines)


def _row(happening: dict[str, Any]) -> list[str]:
    wanted = " + ".join(f"{size} {release}" for release, size in happening["wanted"].items() if size)
    return [
        span(happening["after_s"]),
        happening["service"],
        f"{happening['share']:.2%}".replace(".00%", "%"),
        wanted,
        _what(happening),
        _why(happening),
    ]


def _what(happening: dict[str, Any]) -> str:
    if happening["what"] != "instances":
        return str(happening["what"])
    started, stopped = happening["started"], happening["stopped"]
    parts = [f"start {started}" if started else "", f"drain {stopped}" if stopped else ""]
    return f"{', '.join(filter(None, parts))} {'instance' if started + stopped == 1 else 'instances'}"


def _why(happening: dict[str, Any]) -> str:
    if not happening["hold_s"] and not happening["samples"]:
        return str(happening["why"])
    return f"{happening['why']}; then at least {span(happening['hold_s'])} and {happening['samples']} requests"


def span(seconds: float) -> str:
    """`4m 30s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return " ".join(parts[:2]) or "0s"
