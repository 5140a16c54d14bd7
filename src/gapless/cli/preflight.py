"""`gapless preflight`: whether the next release of a service has room."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

UNITS = {"bytes": (1 << 20, "MB"), "s": (3600, "h")}


def preflight_command(
    service: Annotated[str, typer.Argument(help="The service.")],
    release: Annotated[
        str,
        typer.Option("--release", help="Weigh this one: by gapless.yaml as it is now, and what it showed."),
    ] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show what a rollout of a service will need, against limits, recorded peaks and this machine: a line for each,
    with its headroom, its risk and what to do. `gapless deploy` shows those that are not low.

    Exit status: 0, 21 when a risk is high.

    Example: gapless preflight orders
    Example: gapless preflight orders --release 1.5.0
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, table
    from gapless.core.errors import RiskTooHigh

    found = report_of(ControlClient(state_of(state, file)), service, release, by_file=bool(release))
    if json:
        emit(found, json)
    else:
        table(("risk", "what", "used", "limit", "headroom", "why"), [_row(line) for line in found["lines"]])
        for line in found["lines"]:
            if line["remedy"]:
                emit(f"{line['what']}: {line['remedy']}")
    if found["risk"] == "high":
        raise typer.Exit(RiskTooHigh.exit_code)


def report_of(client: Any, service: str, release: str = "", *, by_file: bool = False) -> Any:
    """`by_file`: by gapless.yaml as it is now, and not by what is in force."""
    from urllib.parse import urlencode

    query = urlencode({**({"release": release} if release else {}), **({"file": 1} if by_file else {})})
    return client.get(f"/v1/services/{service}/preflight?{query}")


def warnings(report: Any) -> list[str]:
    """The lines that are of a medium or a high risk, for whoever deploys."""
    return [_warning(report["service"], line) for line in report["lines"] if line["risk"] in ("medium", "high")]


def _warning(service: str, line: dict[str, Any]) -> str:
    told = f"{line['risk']} risk: {service}: {line['what']}: {line['told']}"
    if not line["limit"]:
        return told
    return f"{told} ({_amount(line['used'], line['unit'])} of {_amount(line['limit'], line['unit'])})"


def _row(line: dict[str, Any]) -> list[str]:
    headroom = "-" if line["headroom"] is None else f"{line['headroom']:.0%}"
    numbers = [_amount(line[name], line["unit"]) for name in ("used", "limit")]
    return [line["risk"], line["what"], *numbers, headroom, line["told"]]


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    divisor, shown = UNITS.get(unit, (1, unit))
    return f"{value / divisor:.4g} {shown}"
