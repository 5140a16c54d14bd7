"""`gapless incident`: one incident: its time line, the suspects with their evidence, and a draft of the post-mortem."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json


def incident_command(
    number: Annotated[int, typer.Argument(help="A number of `gapless incidents`.")],
    what: Annotated[str, typer.Argument(help="`export`: a draft of the post-mortem, in Markdown.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show an incident: its time line, and the changes that may be to blame, with what speaks for and against each.

    Example: gapless incident 3 export
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, line

    if what not in ("", "export"):
        raise typer.BadParameter(f"{what} is not `export`")
    client = ControlClient(state_of(state, file))
    if what:
        exported = client.get(f"/v1/incidents/{number}/export")
        emit(exported if json else exported["markdown"], json)
        return
    found = client.get(f"/v1/incidents/{number}")
    if json:
        emit(found, json)
        return
    for text in _lines(found):
        line(text)


def _lines(incident: dict[str, Any]) -> list[str]:
    from gapless.cli.alerts import moment

    head = f"incident {incident['number']}, {incident['severity']}, {incident['state']}: {incident['title']}"
    lines = [head, *_impact(incident["impact"]), ""]
    for suspect in incident["suspects"][:3]:
        lines.append(f"{suspect['probability']:>4.0%}  {suspect['what']} (change {suspect['number']})")
        lines += [f"      {text}" for text in suspect["evidence"]]
    lines += [] if incident["suspects"] else ["no change is suspected"]
    return [*lines, "", *(f"{moment(e['at'])}  {e['kind']:<8}  {e['text']}" for e in incident["timeline"])]


def _impact(impact: dict[str, float]) -> list[str]:
    if not impact:
        return []
    return [f"{impact['errors']:,.0f} of {impact['requests']:,.0f} requests failed; p99 up to {impact['p99_s']:.3g} s"]
