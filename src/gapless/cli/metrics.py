"""`gapless metrics`: how services are now, and what was recorded of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from gapless.cli.group import OrShow
from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

metrics_group = typer.Typer(
    cls=OrShow,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""How services are now, and what was recorded of them.

    Example: gapless metrics orders
    """,
)


@metrics_group.command("show")
def show_command(
    service: Annotated[str, typer.Argument(help="Only this service.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show each release's requests, errors, latencies and what it takes, over the last minute.

    Example: gapless metrics show orders
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, line, table
    from gapless.core.errors import UnknownName

    client = ControlClient(state_of(state, file))
    names = list(client.get("/v1/status")["services"])
    if service and service not in names:
        raise UnknownName(f"there is no service {service!r}", f"The services are: {', '.join(names) or 'none'}.")
    rows = [row for row in client.get("/v1/metrics/overview") if service in ("", row["service"])]
    if json:
        emit(rows, json)
    elif rows:
        derived = list(dict.fromkeys(name for row in rows for name in row["derived"] or {}))
        table((*COLUMNS, *derived), [_cells(row, derived) for row in rows])
    else:
        line("nothing has been recorded yet; look again in some seconds")


@metrics_group.command("query")
def query_command(
    metric: Annotated[str, typer.Argument(help="Its name; left out: all names are listed.")] = "",
    where: Annotated[list[str], typer.Option("--where", help="LABEL=VALUE that it must have; repeatable.")] = [],  # noqa: B006 typer's way
    by: Annotated[list[str], typer.Option("--by", help="A series for each value of this label; repeatable.")] = [],  # noqa: B006
    of: Annotated[str, typer.Option("--of", help="value, max, rate, increase, quantile or mean.")] = "",
    rate: Annotated[bool, typer.Option("--rate", help="Short for --of rate.")] = False,
    quantile: Annotated[str, typer.Option("--quantile", help="For instance 0.99; short for --of quantile.")] = "",
    over: Annotated[str, typer.Option("--over", help="What rates and quantiles look back on.")] = "60s",
    since: Annotated[str, typer.Option("--since", help="How long ago it begins.")] = "1h",
    until: Annotated[str, typer.Option("--until", help="How long ago it ends.")] = "",
    step: Annotated[str, typer.Option("--step", help="Between two points; default: what fits.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Draw what was recorded of a metric, a line for each series.

    Example: gapless metrics query gapless_requests_total --by release --rate --since 1h
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, line, table

    client = ControlClient(state_of(state, file))
    if not metric:
        emit(client.get("/v1/metrics/names"), json)
        return
    asked = [("metric", metric), ("of", _figure(metric, of, rate, quantile)), ("over", over), ("since", since)]
    asked += [("where", text.replace("=", ":", 1)) for text in where] + [("by", text) for text in by]
    asked += [(name, text) for name, text in (("until", until), ("step", step), ("q", quantile)) if text]
    answer = client.get(f"/v1/metrics/series?{_query(asked)}")
    if json:
        emit(answer, json)
    elif answer["series"]:
        table(("series", "last", "least", "most", ""), [_drawn(series, answer) for series in answer["series"]])
    else:
        line(f"nothing of {metric} was recorded then; `gapless metrics query` lists what is")


COLUMNS = ("service", "release", "req/s", "errors", "p50", "p99", "in flight", "cpu", "memory")


def _cells(row: dict[str, Any], derived: Sequence[str]) -> list[str]:
    return [
        row["service"],
        row["release"] or "-",
        number(row["rate"]),
        "-" if row["errors"] is None else f"{row['errors']:.2%}",
        milliseconds(row["p50_s"]),
        milliseconds(row["p99_s"]),
        number(row["in_flight"]),
        number(row["cpu"]),
        "-" if row["memory"] is None else f"{row['memory'] / 2**20:.0f} MiB",
        *(number((row["derived"] or {}).get(name)) for name in derived),
    ]


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.3g} ms"


def _figure(metric: str, of: str, rate: bool, quantile: str) -> str:
    """What is shown of a metric when nothing is said: the rate of what only rises."""
    if of:
        return of
    if quantile:
        return "quantile"
    return "rate" if rate or metric.endswith("_total") else "value"


def _query(pairs: list[tuple[str, str]]) -> str:
    from urllib.parse import urlencode

    return urlencode(pairs)


BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def _drawn(series: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    values = [value for _, value in series["points"]]
    labels = ", ".join(f"{name}={value}" for name, value in series["labels"].items()) or "all"
    line = sparkline(series["points"], answer["since_at"], answer["until_at"])
    return [labels, number(values[-1]), number(min(values)), number(max(values)), line]


def sparkline(points: Sequence[Sequence[float]], since_at: float, until_at: float, width: int = WIDTH) -> str:
    """The means of `width` equal parts of the time as bars from 0 to the largest; a blank where nothing is known."""
    parts: list[list[float]] = [[] for _ in range(width)]
    for at, value in points:
        place = (at - since_at) / max(until_at - since_at, 1e-9)
        parts[min(max(int(place * width), 0), width - 1)].append(value)
    means = [sum(part) / len(part) if part else None for part in parts]
    most = max((mean for mean in means if mean is not None), default=0.0)
    return "".join(" " if mean is None else BARS[_level(mean, most)] for mean in means)


def _level(value: float, most: float) -> int:
    return 0 if most <= 0 else min(max(int(value / most * len(BARS)), 0), len(BARS) - 1)
