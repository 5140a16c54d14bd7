"""What the verbs print: tables for people, JSON for programs, and errors that say what to do next.

On a terminal rich draws; elsewhere the same things are plain aligned text, so that `grep` and `awk` have it easy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from gapless.core.errors import GaplessError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""The option of every verb that prints data."""

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
PIPE_CLOSED = 141
"""128 + SIGPIPE: whoever read our output has gone."""

_RED, _DIM, _PLAIN = "\x1b[31m", "\x1b[2m", "\x1b[0m"


def on_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person watches (`NO_COLOR` and `TERM=dumb` say that plain text is wanted even so)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(text: str = "") -> None:
    """One line of output, at once."""
    typer.echo(text)


def note(text: str) -> None:
    """One line for people, on stderr, so that it does not mix with data."""
    typer.echo(text, err=True)


def emit(value: Any, json: bool = False) -> None:
    """Print a value: as JSON, or text as it is, a list of mappings as a table, a mapping as `key  value` lines."""
    if json:
        line(as_json(value))
    elif isinstance(value, str):
        line(value)
    elif isinstance(value, Mapping):
        table((), [(str(key), _cell(item)) for key, item in value.items()])
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        table(tuple(value[0]), [[_cell(item) for item in row.values()] for row in value])
    elif isinstance(value, Sequence):
        for item in value:
            line(_cell(item))
    else:
        line(_cell(value))


def as_json(value: Any) -> str:
    """Any model value or plain data as indented JSON."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under columns (none: no heading)."""
    if on_terminal():
        _rich_table(columns, rows)
        return
    for text in plain_table(columns, rows):
        line(text)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: columns two blanks apart, nothing behind the last one."""
    lines = [[name.upper() for name in columns], *rows] if columns else list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, show_header=bool(columns), header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns or [""] * len(rows[0] if rows else ()):
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*[Text(cell) for cell in row])
    Console().print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value)


def complain(what: str, remedy: str = "") -> None:
    """An error for people, on stderr: what happened, then the way out. Red and dim on a terminal."""
    head, *rest = what.splitlines() or [""]
    lines = [(_RED, f"error: {head}"), *(("", text) for text in rest)]
    for index, text in enumerate(remedy.splitlines()):
        lines.append((_DIM, f"{'  ' if index else '→ '}{text}".rstrip()))
    colour = on_terminal(sys.stderr)
    for style, text in lines:
        typer.echo(f"{style}{text}{_PLAIN}" if colour else text, err=True, color=colour)


def fail(error: GaplessError, json: bool) -> int:
    """Report an error to whoever asked; returns the exit code."""
    if json:
        line(as_json({"error": error.what, "remedy": error.remedy, "code": error.exit_code}))
    else:
        complain(error.what, error.remedy)
    return error.exit_code
