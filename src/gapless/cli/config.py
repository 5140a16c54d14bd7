"""`gapless config`: look at the live configuration of a service, change it, and go back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Who, Why
from gapless.cli.output import Json

Name = Annotated[str, typer.Argument(help="The service.")]
Stage = Annotated[
    str, typer.Option("--stage", help="Share of the instances that has it first, for instance 10%; then all, or back.")
]
Unchecked = Annotated[
    bool, typer.Option("--unchecked", help="Write it without asking the instances: none runs yet, or one hangs.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for the end of a staged change.")]

config_group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Look at the live configuration of a service, change it, and go back.

    A change is validated by every running instance before it is written; what is wrong is refused with its place.

    Example: gapless config set orders price.max=5 --stage 10% --why "less in the sale"
    """,
)


@config_group.command("get")
def get_command(
    service: Name,
    key: Annotated[str, typer.Argument(help="Only this setting, and those below it.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show the settings in force and where each comes from. Secrets are not shown.

    Example: gapless config get orders price
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, note

    found = ControlClient(state_of(state, file)).get(_path(service))
    settings = {name: each for name, each in found["settings"].items() if _below(name, key)}
    if json:
        emit({**found, "settings": settings}, json)
        return
    if key and found["settings"] and not settings:
        from gapless.core.errors import UnknownName

        raise UnknownName(f"{service} has no setting {key!r}", f"It has: {', '.join(found['settings'])}.")
    note(_headline(found))
    if not found["settings"]:
        emit(found["values"] or "nothing is set")
        return
    emit([{"setting": name, "value": each["value"], "from": each["from"]} for name, each in settings.items()])


@config_group.command("set")
def set_command(
    service: Name,
    settings: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE; a list is [a, b], a mapping {k: v}.")] = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", help="A key to remove; repeatable.")] = None,
    stage: Stage = "",
    unchecked: Unchecked = False,
    detach: Detach = False,
    why: Why = "",
    ticket: Ticket = "",
    who: Who = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Change settings in all running instances, at once or staged.

    Exit status: 2 refused, 8 when another change is under way, 15 a stage that was rolled back.

    Example: gapless config set orders price.max=5 --stage 10% --why "less in the sale" --ticket SHOP-7
    """
    from gapless.cli.client import ControlClient, state_of

    if not settings and not unset:
        raise typer.BadParameter("Give what is to change: KEY=VALUE, or --unset KEY.")
    client = ControlClient(state_of(state, file))
    body = {"set": pairs(settings or []), "unset": unset or [], "stage": stage, "unchecked": unchecked}
    _report(client, client.post(_path(service), body | author(why, ticket, who)), json, detach)


@config_group.command("diff")
def diff_command(
    service: Name,
    before: Annotated[int, typer.Argument(help="A revision; default: the one before the other.")] = 0,
    after: Annotated[int, typer.Argument(help="A revision; default: the one in force.")] = 0,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show what is different between two revisions.

    Example: gapless config diff orders 3 5
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    query = "&".join(f"{name}={number}" for name, number in (("from", before), ("to", after)) if number)
    found = ControlClient(state_of(state, file)).get(f"{_path(service)}/diff?{query}")
    emit(found if json else found["differences"] or "nothing is different", json)


@config_group.command("history")
def history_command(service: Name, json: Json = False, file: File = DEFAULT_FILE, state: State = None) -> None:
    """Show the revisions that are kept, newest first: who, what and why.

    Example: gapless config history orders
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    found = ControlClient(state_of(state, file)).get(f"{_path(service)}/history")
    emit(found if json else [_row(revision) for revision in found] or "nothing was ever set", json)


@config_group.command("rollback")
def rollback_command(
    service: Name,
    to: Annotated[int, typer.Option("--to", help="The revision to go back to; default: the one before.")] = 0,
    stage: Stage = "",
    unchecked: Unchecked = False,
    detach: Detach = False,
    why: Why = "",
    ticket: Ticket = "",
    who: Who = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """End the staged change under way, or go back to any revision that is kept.

    Example: gapless config rollback orders --to 3 --why "carts are empty"
    """
    from gapless.cli.client import ControlClient, state_of

    client = ControlClient(state_of(state, file))
    body = {"to": to, "stage": stage, "unchecked": unchecked} | author(why, ticket, who)
    _report(client, client.post(f"{_path(service)}/rollback", body), json, detach=detach or not stage)


@config_group.command("import")
def import_command(
    directory: Annotated[Path, typer.Argument(help="With one file for each service: orders.yaml, stock.toml.")],
    dirty: Annotated[
        bool, typer.Option("--dirty", help="Also what is not committed, or not in a Git repository at all.")
    ] = False,
    stage: Stage = "",
    unchecked: Unchecked = False,
    detach: Detach = False,
    why: Why = "",
    ticket: Ticket = "",
    who: Who = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Take the files of a commit as the configuration of services: all of them, or none when one is wrong.

    Example: gapless config import ./settings --why "release train 12"
    """
    import asyncio

    from gapless.cli.client import ControlClient, state_of
    from gapless.config.directory import read_directory

    found = asyncio.run(read_directory(directory, dirty))
    services = {name: {"values": each.values, "places": each.places} for name, each in found.services.items()}
    body = {"label": found.label, "services": services, "stage": stage, "unchecked": unchecked}
    client = ControlClient(state_of(state, file))
    outcomes = client.post("/v1/config/import", body | author(why, ticket, who))
    if json and not stage:
        from gapless.cli.output import emit

        emit(outcomes, json)
        return
    for outcome in outcomes:
        _report(client, outcome, json, detach)


def author(why: str, ticket: str, who: str) -> dict[str, str]:
    """`who` is the client's to say when nobody is named."""
    return {"why": why, "ticket": ticket} | ({"who": who} if who else {})


def pairs(settings: list[str]) -> dict[str, Any]:
    """`price.max=5` by key. Values stay the text that was written; lists and mappings are read as YAML. Raises
    ConfigError."""
    from gapless.config.document import read
    from gapless.core.errors import ConfigError

    found: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key:
            raise ConfigError(f"{setting} is not KEY=VALUE", "Write for instance price.max=5.")
        document = read(text) if text[:1] in ("[", "{") else None
        if document and document.problems:
            raise ConfigError(f"{key}: {document.problems[0].what}", "Quote it for the shell: 'hosts=[a, b]'.")
        found[key] = document.value if document else text
    return found


def _path(service: str) -> str:
    return f"/v1/services/{service}/config"


def _below(name: str, key: str) -> bool:
    return not key or name == key or name.startswith(f"{key}.")


def _headline(found: dict[str, Any]) -> str:
    label = f" ({found['label']})" if found["label"] else ""
    where = f", in force in {found['instance']}" if found["instance"] else "; no instance listens"
    stage = found["stage"]
    trial = f"; revision {stage['number']} is being tried" if stage and not stage["ended_at"] else ""
    waits = f"; waits for a restart: {', '.join(found['pending'])}" if found["pending"] else ""
    return f"{found['service']}: revision {found['revision']} in the store{label}{where}{trial}{waits}"


def _row(revision: dict[str, Any]) -> dict[str, Any]:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(revision["at"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return {"revision": revision["number"], "standing": revision["standing"], "at": at} | {
        name: revision[name] for name in ("who", "what", "why", "ticket", "label")
    }


def _report(client: Any, outcome: dict[str, Any], json: bool, detach: bool) -> None:
    """What came of a change; a staged one is watched to its end."""
    from gapless.cli.output import emit
    from gapless.cli.watch_stage import watch_stage

    stage = outcome["stage"]
    if stage and not stage["ended_at"] and not detach:
        watch_stage(client, stage, json)
    elif json:
        emit(outcome, json)
    else:
        for text in told(outcome):
            emit(text)


def told(outcome: dict[str, Any]) -> list[str]:
    """The outcome of a change, line by line."""
    stage, name = outcome["stage"], outcome["service"]
    if stage and not stage["ended_at"]:
        return [f"{name}: revision {stage['number']} is being tried by {', '.join(stage['members'])}"]
    obeyed = f"obeyed by {', '.join(outcome['instances'])}" if outcome["instances"] else "obeyed by nobody yet"
    lines = [f"{name}: revision {outcome['revision']}, {obeyed}"]
    lines += [f"not heard of yet: {', '.join(outcome['lacking'])}"] if outcome["lacking"] else []
    lines += [f"refused: {line}" for line in outcome["refused"]]
    lines += [f"failed when told: {line}" for line in outcome["failures"]]
    lines += [f"takes effect with `gapless reload {name}`: {line}" for line in outcome["pending"]]
    return lines
