"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gapless.config import System

File = Annotated[Path, typer.Option("--file", "-f", help="The system's gapless.yaml.", envvar="GAPLESS_FILE")]
State = Annotated[
    Path | None,
    typer.Option("--state", help="State directory; default: .gapless beside gapless.yaml.", envvar="GAPLESS_STATE_DIR"),
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        help="Address of the store instead of the file's: sqlite:PATH, etcd://…, consul://….",
        envvar="GAPLESS_STORE",
    ),
]
Why = Annotated[str, typer.Option("--why", help="The reason, for the change log.")]
Ticket = Annotated[str, typer.Option("--ticket", help="The ticket, for the change log.")]
Who = Annotated[str, typer.Option("--who", help="Whose change it is, for the change log; default: your login.")]
Override = Annotated[
    str,
    typer.Option("--override-freeze", metavar="REASON", help="Go on in spite of windows and freezes, for this reason."),
]
DEFAULT_FILE = Path("gapless.yaml")


def at(system: System, state: Path | None, store: str) -> System:
    """The system with what the options say instead of the file. Raises ConfigError."""
    from dataclasses import replace

    from gapless.config.stores import located, store_address
    from gapless.core.errors import ConfigError

    if state:
        system = replace(system, state=state.absolute())
    if not store:
        return system
    try:
        return replace(system, store=located(store_address(store), Path.cwd()))
    except ValueError as error:
        raise ConfigError(f"--store: {error}", "docs/configuration.md tells the addresses of stores.") from error
