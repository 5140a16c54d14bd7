"""`gapless down`: end a system."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gapless.cli.options import DEFAULT_FILE, File, State, Store, at
from gapless.cli.output import Json

DOWN_LIMIT_S = 300.0
LOOK_EVERY_S = 0.1


def down_command(store: Store = "", json: Json = False, file: File = DEFAULT_FILE, state: State = None) -> None:
    """Drain and end everything that `gapless up` started: gateway, instances and control plane.

    Works as well when the control plane was killed and only the rest is running.

    Example: gapless down --file shop/gapless.yaml
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit
    from gapless.core.errors import ControlUnreachable

    where = state_of(state, file)
    try:
        ControlClient(where).post("/v1/down")
    except ControlUnreachable:
        asyncio.run(_take_down(file, where, store))
    else:
        asyncio.run(_wait_gone(where))
    emit({"stopped": True} if json else "stopped", json)


async def _wait_gone(state: Path) -> None:
    """Until the control plane has removed its socket, the last thing that it does."""
    from gapless.core.errors import GaplessError
    from gapless.core.world import RealWorld

    world = RealWorld()
    until = world.now() + DOWN_LIMIT_S
    while (state / "control.sock").exists():
        if world.now() > until:
            raise GaplessError(f"the control plane has not ended within {DOWN_LIMIT_S:g} s", "See what it prints.")
        await world.sleep(LOOK_EVERY_S)


async def _take_down(file: Path, state: Path, store: str) -> None:
    from gapless.config import load
    from gapless.control.compose import compose
    from gapless.core.errors import ControlUnreachable
    from gapless.core.events import Events
    from gapless.store import shared

    if not any((state / name).exists() for name in ("store.db", "run")):
        raise ControlUnreachable(f"nothing was started in {state}", "Name the right place by --file or --state.")
    system = at(load(file), state, store)
    if shared(system.store):
        from gapless.control.remains import take_down

        await take_down(system)
    else:
        await (await compose(system, Events())).take_down()
    (state / "control.sock").unlink(missing_ok=True)
