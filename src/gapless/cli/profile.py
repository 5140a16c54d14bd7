"""`gapless profile`: where a running service's time and memory go."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.observe.profile import Profile

SLACK_S = 120.0
"""Beyond the time that is measured. For leaks, a worker is replaced and drained first."""


class Kind(StrEnum):
    CPU = "cpu"
    HEAP = "heap"
    TASKS = "tasks"
    LEAKS = "leaks"
    STUCK = "stuck"


TARGETS = {Kind.CPU: "profile", Kind.HEAP: "heap", Kind.TASKS: "goroutine"}


def profile_command(
    service: Annotated[
        str, typer.Argument(help="A service or an instance of `gapless up`; none for a server in this directory.")
    ] = "",
    kind: Annotated[
        Kind,
        typer.Option(
            help="`cpu`: where time goes. `heap`: what memory holds. `tasks`: what waits for what. `leaks`: what one "
            "worker has more of after a while; another one takes its place. `stuck`: all stacks, from outside."
        ),
    ] = Kind.CPU,
    seconds: Annotated[float, typer.Option(help="How long to measure; 60 at most.", min=0.1, max=60.0)] = 10.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write pprof's format here: for speedscope.app or `go tool pprof`."),
    ] = None,
    top: Annotated[int, typer.Option(help="Lines of the table.", min=1)] = 20,
    admin: Annotated[str, typer.Option(help="unix:PATH of a server's admin socket.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Look inside running workers: processor time, memory, tasks, leaks, stuck threads. Requests go on meanwhile.

    Example: gapless profile orders --seconds 10 -o orders.pb.gz
    """
    from gapless.cli.output import emit, note

    sockets = [admin.removeprefix("unix:")] if admin else _sockets(service, state, file)
    if kind in (Kind.LEAKS, Kind.STUCK):
        found = _leaks(sockets[0], seconds) if kind is Kind.LEAKS else _stuck(sockets)
        emit(found if json else "\n".join(str(text).rstrip() for text in found.values()), json)
        return
    if kind is Kind.CPU and not json:
        note(f"Measuring for {seconds:g} s …")
    profile = _profile(sockets, f"/debug/pprof/{TARGETS[kind]}?seconds={seconds:g}", seconds)
    if output:
        _write(output, profile)
        note(f"{output}: open it at https://www.speedscope.app, or with `go tool pprof -http : {output}`.")
    elif json:
        from gapless.observe.profile.values import plain

        emit(plain(profile), json)
    else:
        _show(profile, top)


def _sockets(service: str, state: Path | None, file: Path) -> list[str]:
    """The admin sockets of a service's instances, also while no control plane is there. Raises UnknownName."""
    from gapless.server.serve import ADMIN

    if not service:
        return [ADMIN]
    from gapless.cli.client import state_of
    from gapless.core.errors import UnknownName
    from gapless.fleet.launch import run_directory

    found = sorted(run_directory(state_of(state, file)).glob("*.sock"))
    sockets = [str(path) for path in found if path.stem == service or path.stem.rpartition("-")[0] == service]
    if not sockets:
        known = ", ".join(path.stem for path in found) or "none"
        raise UnknownName(f"no instance of {service!r} can be asked", f"Those that can: {known}.")
    return sockets


def _profile(sockets: list[str], target: str, seconds: float) -> Profile:
    """All instances at the same time, together. Raises GaplessError when one does not answer as it should."""
    from concurrent.futures import ThreadPoolExecutor

    from gapless.observe.profile import merged, pprof

    with ThreadPoolExecutor(len(sockets)) as pool:
        contents = list(pool.map(lambda socket: _asked(socket, target, seconds), sockets))
    return merged(pprof.decode(content) for content in contents)


def _asked(socket: str, target: str, seconds: float) -> bytes:
    import json

    from gapless.core.errors import Busy, GaplessError
    from gapless.server.admin.ask import fetch

    try:
        status, content = fetch(socket, "GET", target, seconds + SLACK_S)
    except (ConnectionError, TimeoutError) as error:
        raise GaplessError(f"{socket} did not answer: {error}", "Try `gapless profile --kind stuck`.") from error
    if status == 200:
        return content
    said = json.loads(content)
    raise (Busy if status == 409 else GaplessError)(said.get("error", ""), said.get("remedy", ""))


def _leaks(socket: str, seconds: float) -> dict[str, str]:
    from gapless.cli.output import note

    note(f"One worker is watched for {seconds:g} s, then another one takes its place …")
    return {socket: _asked(socket, f"/debug/pprof/leaks?seconds={seconds:g}", seconds).decode()}


def _stuck(sockets: list[str]) -> dict[str, Any]:
    """The stacks of every worker, by its pid."""
    from gapless.server.admin.ask import ask
    from gapless.server.profile.outside import stacks

    pids = [worker["pid"] for socket in sockets for worker in ask(socket, "GET", "/status", SLACK_S).body["workers"]]
    return {str(pid): stacks(pid) for pid in pids}


def _write(output: Path, profile: Profile) -> None:
    from gapless.core.errors import GaplessError
    from gapless.observe.profile import pprof

    try:
        output.write_bytes(pprof.encode(profile))
    except OSError as error:
        raise GaplessError(f"cannot write {output}: {error.strerror}", "Name another file with -o.") from error


def _show(profile: Profile, most: int) -> None:
    from gapless.cli.output import line, note
    from gapless.observe.profile.top import top

    for text in top(profile, most):
        line(text)
    if profile.note:
        note(profile.note)
