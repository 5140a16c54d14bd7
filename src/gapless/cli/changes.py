"""`gapless changes`: who changed what, when and why, with the numbers behind each decision."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

NUMBERS_FIRST = ("e_errors", "e_slow", "e_broken", "e_limit", "power")
AGAIN_EVERY_S = 0.5


def changes_command(
    number: Annotated[int, typer.Argument(help="Only this change, with all that it changed.", show_default=False)] = 0,
    service: Annotated[str, typer.Option("--service", help="Only changes of this service.")] = "",
    since: Annotated[
        str, typer.Option("--since", help="Only from then on: 2h, 30m, 7d, or a time such as 2026-11-30T14:00.")
    ] = "",
    who: Annotated[str, typer.Option("--who", help="Only by this author.")] = "",
    what: Annotated[str, typer.Option("--what", help="Only where this is a part of what was done.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Oldest first, and then each as it comes.")] = False,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show the change log: who, what, why, ticket, what truly changed, and the numbers behind automatic decisions.

    Example: gapless changes --service orders --since 2h
    """
    from urllib.parse import urlencode

    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    client = ControlClient(state_of(state, file))
    if number:
        change = client.get(f"/v1/changes/{number}")
        emit(change if json else described(change), json)
        return
    asked = {"service": service, "who": who, "what": what, "since": _since(since), "limit": limit}
    query = urlencode({name: value for name, value in asked.items() if value})
    if follow:
        _follow(client, query, json)
    else:
        found = client.get(f"/v1/changes?{query}")
        emit(found if json else [row(change) for change in found], json)


def _since(text: str) -> float:
    """Seconds since the epoch; 0: always. Raises ConfigError."""
    from datetime import datetime

    from gapless.config.quantities import seconds
    from gapless.core.errors import ConfigError
    from gapless.core.world import RealWorld

    if not text:
        return 0.0
    try:
        if text.endswith("d") and text[:-1].isdecimal():
            return RealWorld().time() - int(text[:-1]) * 86_400
        if text[:4].isdecimal() and "-" in text:
            return datetime.fromisoformat(text).astimezone().timestamp()
        return RealWorld().time() - seconds(text)
    except ValueError as error:
        raise ConfigError(f"--since {text}: neither a duration nor a time", "Write 2h, 7d or 2026-11-30T14:00.") from (
            error
        )


def _follow(client: Any, query: str, json: bool) -> None:
    """Goes on when the control plane has been away."""
    import asyncio

    from gapless.cli.output import line, note
    from gapless.core.errors import ControlUnreachable
    from gapless.core.world import RealWorld

    last, away = 0, False
    while True:
        try:
            for change in client.lines(f"/v1/changes/follow?{query}"):
                away = False
                if change["number"] > last:
                    last = change["number"]
                    line(_json_line(change) if json else "  ".join(str(cell) for cell in row(change).values()))
        except ControlUnreachable:
            if not last and not away:
                raise
            if not away:
                note("the control plane is away; this goes on when it is back")
            away = True
        asyncio.run(RealWorld().sleep(AGAIN_EVERY_S))


def _json_line(change: dict[str, Any]) -> str:
    import json

    return json.dumps(change)


def row(change: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    cells = {"number": change["number"], "at": when(change["at"])} | {k: change[k] for k in ("who", "what", "why")}
    undone = f" (undone by {change['undone_by']})" if change["undone_by"] else ""
    return {**cells, "what": f"{change['what']}{undone}", "ticket": change["ticket"]}


def when(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def described(change: dict[str, Any]) -> str:
    """All of one change, for people."""
    lines = [f"change {change['number']}: {change['what']}", f"  {when(change['at'])}  by {change['who']}"]
    lines += [f"  {name}: {change[name]}" for name in ("why", "ticket") if change[name]]
    if change["rollout"]:
        lines.append(f"  part of rollout {change['rollout']} of {change['service']}")
    if change["undoes"]:
        lines.append(f"  takes back change {change['undoes']}")
    lines += ["", *(difference(each) for each in change["diff"])] if change["diff"] else []
    lines += ["", *_numbers(change["numbers"])] if change["numbers"] else []
    return "\n".join([*lines, "", _way_back(change)])


def difference(each: dict[str, Any]) -> str:
    if each["before"] is None and each["after"] is None:
        return f"  … {each['where']}"
    if each["before"] is None:
        return f"  + {each['where']}: {each['after']}"
    if each["after"] is None:
        return f"  - {each['where']}: {each['before']}"
    return f"  ~ {each['where']}: {each['before']} → {each['after']}"


def _numbers(numbers: dict[str, float]) -> list[str]:
    names = sorted(numbers, key=lambda name: (name not in NUMBERS_FIRST, name))
    return [f"  {name:24} {numbers[name]:g}" for name in names]


def _way_back(change: dict[str, Any]) -> str:
    if change["undone_by"]:
        return f"It was undone by change {change['undone_by']}."
    if change["undoable"]:
        return f'To take it back: gapless undo {change["number"]} --why "…"'
    return "It cannot be undone by itself."
