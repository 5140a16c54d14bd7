"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Option("--file", "-f", help="The system's gapless.yaml.", envvar="GAPLESS_FILE")]
State = Annotated[
    Path | None,
    typer.Option("--state", help="State directory; default: .gapless beside gapless.yaml.", envvar="GAPLESS_STATE_DIR"),
]
Why = Annotated[str, typer.Option("--why", help="The reason, for the change log.")]
Ticket = Annotated[str, typer.Option("--ticket", help="The ticket, for the change log.")]
DEFAULT_FILE = Path("gapless.yaml")
