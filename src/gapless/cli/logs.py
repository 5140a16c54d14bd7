"""`gapless logs`: what instances, gateway and control plane wrote, also while no control plane is there."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.fleet.history import Entry, Wanted
    from gapless.fleet.logs import Logs

LINES = 100


def logs_command(
    service: Annotated[str, typer.Argument(help="A service or an instance, `envoy` or `control`; default: all.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on as lines are written.")] = False,
    since: Annotated[str, typer.Option("--since", help="From so long ago, like 10m, or an ISO date on.")] = "",
    until: Annotated[str, typer.Option("--until", help="Up to so long ago, or an ISO date.")] = "",
    trace: Annotated[str, typer.Option("--trace", help="Only lines of this trace or request id.")] = "",
    level: Annotated[str, typer.Option("--level", help="Only lines of this level and above.")] = "",
    grep: Annotated[str, typer.Option("--grep", help="Only lines that this regular expression finds.")] = "",
    instance: Annotated[str, typer.Option("--instance", help="Only this instance.")] = "",
    lines: Annotated[
        int | None,
        typer.Option("--lines", "--tail", "-n", help="The last lines. Default: 100, with --since all.", min=0),
    ] = None,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show what all instances of a service wrote, in the order of time.

    Example: gapless logs orders --follow --since 10m --level warning
    """
    from gapless.cli.client import state_of
    from gapless.core.errors import UnknownName
    from gapless.core.world import RealWorld
    from gapless.fleet.logs import Logs

    logs = Logs(state_of(state, file) / "logs")

    def names() -> list[str]:
        return [name for name in logs.names() if _chosen(name, service, instance)]

    if not names() and not follow:
        raise UnknownName(
            f"there is no log of {instance or service or 'any instance'}", "See `gapless status` for the names."
        )
    wanted = _wanted(since, until, trace, level, grep, RealWorld().time())
    show = _Show(json)
    sizes = {name: _size(logs, name) for name in names()}
    most = lines if lines is not None else None if since else LINES
    for entry in _past(logs, sizes, wanted, most):
        show(entry)
    if follow:
        asyncio.run(_follow(logs, names, sizes, wanted, show))


def _chosen(name: str, service: str, instance: str) -> bool:
    fits = not service or name == service or name.startswith(f"{service}-")
    return fits and instance in ("", name)


def _wanted(since: str, until: str, trace: str, level: str, grep: str, now: float) -> Wanted:
    """Raises ConfigError."""
    from gapless.core.errors import ConfigError
    from gapless.fleet.history import LEVELS, Wanted

    if level and level.lower() not in LEVELS:
        raise ConfigError(f"--level {level}: there is none", "There are: debug, info, warning, error, critical.")
    try:
        pattern = re.compile(grep) if grep else None
    except re.error as error:
        raise ConfigError(f"--grep {grep}: {error}", "Write a regular expression.") from error
    return Wanted(
        since_at=_moment(since, "--since", now) if since else 0.0,
        until_at=_moment(until, "--until", now) if until else float("inf"),
        level=LEVELS.get(level.lower(), 0),
        trace=trace,
        pattern=pattern,
    )


def _moment(text: str, option: str, now: float) -> float:
    from datetime import datetime

    from gapless.config.quantities import seconds
    from gapless.core.errors import ConfigError

    try:
        return now - seconds(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()  # without a zone: the one of whoever asks
    except ValueError as error:
        remedy = "Write for instance 10m, 1h, or 2026-11-30T12:00:00Z."
        raise ConfigError(f"{option} {text}: neither a time ago nor a date", remedy) from error


def _size(logs: Logs, name: str) -> int:
    path = logs.path(name)
    return path.stat().st_size if path.exists() else 0


def _past(logs: Logs, sizes: dict[str, int], wanted: Wanted, most: int | None) -> Iterable[Entry]:
    from gapless.fleet.history import lines, merged

    found = merged({name: lines(logs.path(name), size, wanted.since_at) for name, size in sizes.items()}, wanted)
    return found if most is None else deque(found, maxlen=most)


async def _follow(
    logs: Logs, names: Callable[[], list[str]], sizes: dict[str, int], wanted: Wanted, show: Callable[[Entry], None]
) -> None:
    from gapless.core.world import RealWorld
    from gapless.fleet.history import Parser

    parsers: dict[str, Parser] = {}
    async for line in logs.follow(names, RealWorld(), sizes):
        entry = parsers.setdefault(line.instance, Parser(line.instance)).entry(line.text)
        if wanted.fits(entry):
            show(entry)


_COLORS = (36, 32, 35, 34, 33, 96, 92, 95, 94, 93)
_LEVEL_COLORS = {40: 31, 50: 31, 30: 33, 10: 2}
_SHOWN = frozenset({"time", "level", "logger", "message", "service", "release", "instance", "error", "span_id"})


class _Show:
    """Lines for programs (the object as it was written, with `instance`) or for people."""

    def __init__(self, json: bool) -> None:
        from gapless.cli.output import on_terminal

        self._json = json
        self._color = on_terminal()
        self._names: dict[str, int] = {}

    def __call__(self, entry: Entry) -> None:
        from gapless.cli.output import line

        line(as_json(entry) if self._json else self._plain(entry))

    def _plain(self, entry: Entry) -> str:
        name = self._paint(entry.instance, _COLORS[self._names.setdefault(entry.instance, len(self._names)) % 10])
        if not entry.fields:
            return f"{name} | {entry.text}"
        at, level = clock(entry.at), str(entry.fields.get("level", "")).upper()
        pairs = "".join(f" {key}={value}" for key, value in entry.fields.items() if key not in _SHOWN)
        error = f"\n{entry.fields['error']}" if "error" in entry.fields else ""
        painted = self._paint(f"{level:<7}", _LEVEL_COLORS.get(entry.level, 0))
        return f"{name} | {at} {painted} {entry.fields.get('message', '')}{self._paint(pairs, 2)}{error}"

    def _paint(self, text: str, color: int) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._color and color and text else text


def clock(at: float) -> str:
    """The time of day here."""
    from datetime import datetime

    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]


def as_json(entry: Entry) -> str:
    import json

    fields: dict[str, Any] = dict(entry.fields) or {"line": entry.text, **({"at": entry.at} if entry.at else {})}
    return json.dumps({"instance": entry.instance, **fields}, ensure_ascii=False)
