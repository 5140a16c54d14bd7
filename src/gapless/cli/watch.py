"""Watching a rollout from the command line, also across a restart of the control plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from gapless.cli.client import ControlClient
from gapless.cli.gates_view import standing
from gapless.cli.outline import span
from gapless.cli.output import emit, line, note
from gapless.core.errors import ControlUnreachable, RolledBack
from gapless.core.world import RealWorld

AWAY_LIMIT_S = 120.0
"""How long a control plane may be away before the watcher gives up; the rollout itself never does."""
AGAIN_EVERY_S = 0.5


def watch_rollout(client: ControlClient, rollout: dict[str, Any], *, json: bool, detach: bool) -> None:
    """Show each move of a rollout until its end. Raises RolledBack when it ends so (as JSON: the exit status alone)."""
    last = rollout
    for last in () if detach else _follow(client, rollout):
        if not json:
            line(describe(last))
    if json or detach:
        emit(last if json else describe(last), json)
    if last["state"] != "rolled back":
        return
    if json:
        raise typer.Exit(RolledBack.exit_code)
    raise _rolled_back(last)


def watch_all(client: ControlClient, rollouts: list[dict[str, Any]], *, json: bool, detach: bool) -> None:
    """One after the other: those of a train end alike. With several, JSON is a list. Raises RolledBack."""
    if len(rollouts) == 1:
        watch_rollout(client, rollouts[0], json=json, detach=detach)
        return
    last = list(rollouts)
    for place, rollout in enumerate(() if detach else rollouts):
        for last[place] in _follow(client, rollout):
            if not json:
                line(describe(last[place]))
    if json or detach:
        emit(last if json else "\n".join(map(describe, last)), json)
    back = next((each for each in last if each["state"] == "rolled back"), None)
    if back and json:
        raise typer.Exit(RolledBack.exit_code)
    if back:
        raise _rolled_back(back)


def _follow(client: ControlClient, rollout: dict[str, Any]) -> Iterator[dict[str, Any]]:
    path = f"/v1/services/{rollout['service']}/rollouts/{rollout['number']}"
    shown = ""
    for now in _lines_across_restarts(client, path):
        text = describe(now)
        if text != shown or now["state"] in ENDED:
            yield now
        shown = text
        if now["state"] in ENDED:
            return


ENDED = ("promoted", "rolled back")


def _lines_across_restarts(client: ControlClient, path: str) -> Iterator[dict[str, Any]]:
    import asyncio

    world = RealWorld()
    seen_at = world.now()
    while True:
        try:
            for line in client.lines(path):
                seen_at = world.now()
                yield line
        except ControlUnreachable:
            if world.now() - seen_at > AWAY_LIMIT_S:
                raise
            if world.now() - seen_at < 2 * AGAIN_EVERY_S:
                note("the control plane is away; the rollout goes on when it is back")
        asyncio.run(world.sleep(AGAIN_EVERY_S))


def describe(rollout: dict[str, Any]) -> str:
    """One line for people; also of what an older control plane tells."""
    train = f" (train {rollout['train']})" if rollout.get("train") else ""
    head = f"{rollout['service']} {rollout['before']} → {rollout['after']}{train}: "
    if rollout["state"] in ENDED or rollout["state"] == "finishing":
        return f"{head}{_outcome(rollout)}: {rollout['reason']}{_kept(rollout)}"
    paused = f" (paused{', by hand' if rollout.get('by_hand') else ''})" if rollout["paused"] else ""
    waits = f", waits for {rollout['waiting']}" if rollout.get("waiting") and not paused else ""
    if rollout["state"] == "shifting":
        return f"{head}{_share(rollout['share'])} of users{paused}{waits}"
    gates = f": {told}" if rollout["state"] == "starting" and (told := standing(rollout)) else ""
    return f"{head}{rollout['state']}{paused}{gates or waits}"


def _outcome(rollout: dict[str, Any]) -> str:
    if rollout.get("called_off"):
        return "called off before it began"
    return "refused" if rollout["refused"] else str(rollout["state"])


def _share(share: float) -> str:
    return f"{share * 100:.4g}%"


def _kept(rollout: dict[str, Any]) -> str:
    moments = (("old pool kept for", "kept_until_at"), ("watched for", "bakes_until_at"))
    now_at = RealWorld().time()
    told = [f"{what} {span(rollout[key] - now_at)} more" for what, key in moments if rollout.get(key, 0.0) > now_at]
    return f" ({', '.join(told)})" if told else ""


def _rolled_back(rollout: dict[str, Any]) -> RolledBack:
    again = "deploy it again" if rollout.get("called_off") else "mend the release and deploy it under a new name"
    log = f"\nlast lines of its log:\n{_indent(rollout['log'])}" if rollout["log"] else ""
    return RolledBack(
        f"{rollout['after']} was {_outcome(rollout)}: {rollout['reason']}{log}",
        f"{rollout['service']} answers with {rollout['before']}; {again}.",
    )


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
