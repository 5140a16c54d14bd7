"""What can be done from the console: the command line's verbs, each asked for once in a dialog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gapless.control.commands import Author
from gapless.control.plane import ControlPlane
from gapless.core.duration import parse_duration
from gapless.core.errors import GaplessError, UnknownName
from gapless.core.model import Rollout
from gapless.core.model.alert import Alert

Body = Mapping[str, Any]
Run = Callable[[ControlPlane, Body, Author], Awaitable[str]]
"""Does it and says what has happened, in a sentence. Raises GaplessError."""


def author_of(body: Body, who: str) -> Author:
    return Author(who=who, why=_text(body, "why"), ticket=_text(body, "ticket"))


async def act(plane: ControlPlane, verb: str, body: Body, who: str) -> str:
    """Raises GaplessError, with the remedy."""
    run = ACTS.get(verb)
    if run is None:
        raise UnknownName(f"there is no act {verb!r}", f"There are: {', '.join(ACTS)}.")
    return await run(plane, body, author_of(body, who))


def _steer(verb: str) -> Run:
    async def run(plane: ControlPlane, body: Body, author: Author) -> str:
        return _outcome(verb, await plane.rollouts.steer(_service(body), verb, author))

    return run


async def _roll_back(plane: ControlPlane, body: Body, author: Author) -> str:
    return _outcome("rollback", await plane.rollouts.rollback(_service(body), author))


def _outcome(verb: str, rollout: Rollout) -> str:
    said = {
        "pause": "Paused: no more users are moved to {after}.",
        "resume": "Resumed: users are moved to {after} again.",
        "abort": "Going back: all users get {before} again.",
        "approve": "Approved: users come to the next step.",
        "skip": "Passed by hand: users come to the next step.",
        "promote": "Promoted: everybody gets {after} as soon as its instances are ready.",
        "rollback": "Rolling back: rollout {number} leads to {goal}.",
    }
    goal = rollout.winner or rollout.after
    return said[verb].format(before=rollout.before, after=rollout.after, number=rollout.number, goal=goal)


async def _reload(plane: ControlPlane, body: Body, author: Author) -> str:
    told = await plane.commands.reload(_service(body), author)
    return f"Restarted in place: {len(told)} instance{'s' if len(told) != 1 else ''} of {_service(body)}."


async def _scale(plane: ControlPlane, body: Body, author: Author) -> str:
    text = _text(body, "instances")
    if not text.isdecimal():
        raise GaplessError(f"{text!r} is no number of instances", "Say how many, 1 or more.")
    scaled = await plane.commands.scale(_service(body), int(text), author)
    return f"Scaled: {scaled.name} gets {scaled.instances} instance{'s' if scaled.instances != 1 else ''}."


async def _config_rollback(plane: ControlPlane, body: Body, author: Author) -> str:
    number = int(_text(body, "number") or 0)
    outcome = await plane.config.rollback(_service(body), number, author)
    lacking = f" Not told yet: {', '.join(outcome['lacking'])}." if outcome["lacking"] else ""
    return f"In force: revision {outcome['revision']}.{lacking}"


async def _acknowledge(plane: ControlPlane, body: Body, author: Author) -> str:
    alert = await plane.watching.alerts.ack(int(_text(body, "number") or 0), author)
    return f"Acknowledged: {alert.rule}."


async def _silence(plane: ControlPlane, body: Body, author: Author) -> str:
    """All alerts of the same rule and service."""
    alert = plane.records.numbered(Alert, int(_text(body, "number") or 0))
    if alert is None:
        raise UnknownName("there is no such alert any more", "Reload the page.")
    if not author.why:
        raise GaplessError("a silence needs a reason", "Say why: others will wonder.")
    text = _text(body, "for")
    try:
        for_s = parse_duration(text)
    except ValueError as error:
        raise GaplessError(f"{text!r} is no time span: {error}", "Choose for how long.") from error
    await plane.watching.alerts.silence(alert.rule, alert.service, {}, for_s, author)
    return f"Silenced for {text}: {alert.rule}. It is still shown."


async def _unsilence(plane: ControlPlane, body: Body, author: Author) -> str:
    await plane.watching.alerts.unsilence(int(_text(body, "number") or 0), author)
    return "The silence has ended."


async def _undo_action(plane: ControlPlane, body: Body, author: Author) -> str:
    action = await plane.watching.actor.undo_number(int(_text(body, "number") or 0), author)
    return f"Undone: {action.what}."


async def _undo(plane: ControlPlane, body: Body, author: Author) -> str:
    number = int(_text(body, "number") or 0)
    undone = await plane.undoing.undo(number, author)
    if undone.already:
        return f"Change {number} was undone before, by change {undone.change.number}."
    rollout = f" Rollout {undone.rollout.number} moves the users." if undone.rollout else ""
    return f"Undone: change {number}, by change {undone.change.number}.{rollout}"


ACTS: dict[str, Run] = {
    "undo": _undo,
    "scale": _scale,
    "acknowledge": _acknowledge,
    "silence": _silence,
    "unsilence": _unsilence,
    "undo-action": _undo_action,
    "pause": _steer("pause"),
    "resume": _steer("resume"),
    "approve": _steer("approve"),
    "skip": _steer("skip"),
    "promote": _steer("promote"),
    "abort": _steer("abort"),
    "rollback": _roll_back,
    "reload": _reload,
    "config-rollback": _config_rollback,
}


def _service(body: Body) -> str:
    return _text(body, "service")


def _text(body: Body, name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise GaplessError(f"{name} is no text", "Reload the page, and try again.")
    return value.strip()
