"""`gapless traces`: requests on their way through the services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.observe.trace.store import Row

BAR = 40
"""Characters of the waterfall."""
NAME = 46


def traces_command(
    what: Annotated[str, typer.Argument(help="A service, or the id of a trace (its beginning will do).")] = "",
    slow: Annotated[bool, typer.Option("--slow", help="Only slow ones.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed ones.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many, the newest.")] = 20,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """List the traces that are kept: a sample of all requests, and those that were slow or failed. With an id, show
    one trace as a waterfall.

    Example: gapless traces orders --failed
    """
    from urllib.parse import urlencode

    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    client = ControlClient(state_of(state, file))
    if _is_id(what):
        spans = client.get(f"/v1/traces/{what}")
        emit(spans if json else "\n".join(drawn(spans)), json)
        return
    only = "failed" if failed else "slow" if slow else ""
    query = urlencode({"service": what, "only": only, "limit": limit})
    found = client.get(f"/v1/traces?{query}")
    if not found and not json:
        emit(f"No trace{f' of {what}' if what else ''} is kept: docs/tracing.md tells which are.")
        return
    emit(found if json else [row(one) for one in found], json)


def _is_id(text: str) -> bool:
    """Eight hexadecimal digits or more: no service is likely to have such a name."""
    return 8 <= len(text) <= 32 and not set(text) - set("0123456789abcdef")


def row(summary: dict[str, Any]) -> dict[str, Any]:
    from datetime import datetime

    marks = [name for name in ("failed", "slow", "late") if summary[name]]
    return {
        "trace": summary["trace_id"][:16],
        "at": datetime.fromtimestamp(summary["began_at"]).astimezone().strftime("%H:%M:%S"),
        "took": f"{summary['took_s'] * 1000:.1f} ms",
        "request": summary["name"],
        "services": " → ".join(summary["services"]),
        "spans": summary["spans"],
        "": ", ".join(marks),
    }


def drawn(plain: list[dict[str, Any]]) -> list[str]:
    """The waterfall of one trace, a line for each span."""
    from datetime import datetime

    from gapless.observe.trace.spans import Span
    from gapless.observe.trace.store import waterfall

    rows = waterfall([Span.from_plain(one) for one in plain])
    first = rows[0].span
    at = datetime.fromtimestamp(first.began_at).astimezone().isoformat(sep=" ", timespec="milliseconds")
    lines = [f"trace {first.trace_id}, {at}", ""]
    lines += [_line(row) for row in rows]
    if any(row.span.late for row in rows):
        lines += ["", "It was not sampled: only requests that were slow or failed are recorded, not what they called."]
    return lines


def _line(row: Row) -> str:
    span = row.span
    left = min(round(row.offset * BAR), BAR - 1)
    width = max(round(row.width * BAR), 1)
    bar = (" " * left + "█" * width)[:BAR].ljust(BAR)
    name = f"{'  ' * row.depth}{span.service} {span.name}"[:NAME].ljust(NAME)
    failed = f"  failed{_why(span.attributes)}" if span.failed else ""
    return f"{name} {bar} {span.took_s * 1000:9.1f} ms{failed}"


def _why(attributes: Any) -> str:
    told = attributes.get("http.response.status_code") or attributes.get("gapless.outcome", "")
    return f" ({told})" if told else ""
