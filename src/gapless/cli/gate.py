"""`gapless gate`: run the gates of a service by hand, also where no control plane is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.core.model import Address, Gate, Service

gate_group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""List the gates of a service, and run them by hand: before a deploy, or in CI.

    Example: gapless gate run orders --release 1.5.0
    """,
)

Name = Annotated[str, typer.Argument(help="The service.")]


@gate_group.command("list")
def list_command(service: Name, json: Json = False, file: File = DEFAULT_FILE) -> None:
    """List what a release must pass before users meet it, the mirror included.

    Example: gapless gate list orders
    """
    from gapless.cli.output import emit
    from gapless.rollout.gates import described

    told = described(_service(file, service).rollout)
    emit(list(told) if json else "\n".join(told) or f"{service} has no gates", json)


@gate_group.command("run")
def run_command(
    service: Name,
    gates: Annotated[list[str] | None, typer.Argument(help="Only these; default: all but the mirror.")] = None,
    release: Annotated[str, typer.Option("--release", help="What programs are told as the release.")] = "",
    url: Annotated[
        str, typer.Option("--url", help="An instance to ask, http://HOST:PORT; default: a ready one of the release.")
    ] = "",
    stable: Annotated[
        str, typer.Option("--stable", help="An instance of the stable release, to compare contracts with.")
    ] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Run gates here and now. Nothing is recorded, and no pass is taken over from an earlier run.

    Programs start beside gapless.yaml. `smoke` and `contract` need an instance: one that `--url` names, or, where a
    control plane answers, a ready one of the release.

    Exit status: 0 all passed, 20 one refused.

    Example: gapless gate run orders tests coverage --release 1.5.0
    """
    import asyncio

    from gapless.cli.output import emit
    from gapless.core.errors import GateRefused

    found = _service(file, service)
    wanted = _chosen(found, gates or [])
    told = asyncio.run(_run(found, wanted, release, (url, stable), file.absolute(), state))
    emit(told if json else "\n".join(_lines(told)), json)
    refused = [one["name"] for one in told if not one["passed"]]
    if refused and json:
        raise typer.Exit(GateRefused.exit_code)
    if refused:
        raise GateRefused(f"{', '.join(refused)} refused {release or service}", "Mend the release, or the gate.")


def _service(file: Path, name: str) -> Service:
    from gapless.config import load
    from gapless.core.errors import UnknownName

    services = load(file).services
    if name not in services:
        raise UnknownName(f"there is no service {name!r}", f"The services are: {', '.join(services)}.")
    return services[name]


def _chosen(service: Service, names: list[str]) -> list[Gate]:
    from gapless.core.errors import UnknownName

    known = {gate.name: gate for gate in service.rollout.gates}
    wrong = [name for name in names if name not in known]
    if wrong:
        has = f"It has: {', '.join(known)}." if known else "It has none; docs/gates.md tells how to write them."
        raise UnknownName(f"{service.name} has no gate {wrong[0]!r}", has)
    return [known[name] for name in names] if names else list(known.values())


async def _run(
    service: Service, gates: list[Gate], release: str, urls: tuple[str, str], file: Path, state: Path | None
) -> list[dict[str, Any]]:
    """All at once, as a rollout does; interrupted, it leaves nothing running."""
    import asyncio
    import os
    import tempfile
    from dataclasses import replace

    from gapless.control.gates.run import Runner
    from gapless.control.gates.scene import Scene, mark_of
    from gapless.core.world import RealWorld

    world = RealWorld()
    run = Runner(world)
    address, other = (_address(url) for url in urls)
    if not address or not other:
        address, other = _found(service.name, release, address, other, file, state)
    with tempfile.TemporaryDirectory(prefix="gapless-gate-") as scratch:
        scene = Scene(
            service=service.name,
            release=release,
            base=file.parent,
            scratch=Path(scratch),
            mark="",
            address=address,
            stable=other,
        )
        marks = (mark_of(Path(scratch), service.name, os.getpid(), gate.name) for gate in gates)
        scenes = [replace(scene, mark=mark) for mark in marks]
        outcomes = await asyncio.gather(*(run(gate, own) for gate, own in zip(gates, scenes, strict=True)))
    return [
        {
            "name": gate.name,
            "kind": str(gate.kind),
            "passed": outcome.passed,
            "reason": outcome.reason,
            "output": outcome.output,
            "numbers": dict(outcome.numbers),
        }
        for gate, outcome in zip(gates, outcomes, strict=True)
    ]


def _address(url: str) -> Address | None:
    from gapless.core.model import Address
    from gapless.load.spec import Target

    if not url:
        return None
    target = Target.parse(url)
    return Address(host=target.host, port=target.port)


def _found(
    service: str, release: str, address: Address | None, stable: Address | None, file: Path, state: Path | None
) -> tuple[Address | None, Address | None]:
    """Ready instances, where a control plane answers. Without `release`: of the rollout under way."""
    from gapless.cli.client import ControlClient, state_of
    from gapless.core.errors import ControlUnreachable

    try:
        told = ControlClient(state_of(state, file)).get("/v1/status")["services"].get(service)
    except ControlUnreachable:
        return address, stable
    if told is None:
        return address, stable
    wanted = release or (told["rollout"] or {}).get("after", "")
    return address or _ready(told, wanted), stable or _ready(told, told["stable"])


def _ready(told: dict[str, Any], release: str) -> Address | None:
    found = (i for i in told["instances"] if i["release"] == release and i["phase"] == "ready")
    instance = next(found, None)
    return _address(f"http://{instance['address']}") if instance else None


def _lines(told: list[dict[str, Any]]) -> list[str]:
    from gapless.cli.gates_view import gates_lines

    states = [{**one, "state": "passed" if one["passed"] else "refused"} for one in told]
    return gates_lines({"gates": states}) or ["there are no gates to run"]
