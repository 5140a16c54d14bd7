"""What a notice says, in the form of each kind of channel. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gapless.core.model import Change
from gapless.core.model.alert import Severity
from gapless.core.model.notice import Notice, Topic

_ROLLOUT = re.compile(r"^(deploy |roll |\w+ rollout \d|rollout \d|train \d|\w+ train \d)")
"""How the entries of the change log begin that belong to rollouts."""

LONGEST = 3_000
"""Characters of one text: Slack's limit for a block."""
MARKS = {Severity.P0: "🔴", Severity.P1: "🟠", Severity.P2: "🟡", Severity.P3: "⚪"}
OVER = "🟢"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A change or a notice on its way to people. `id` is the same however often it is sent."""

    id: str
    topic: Topic
    at: float
    title: str
    text: str = ""
    system: str = ""
    service: str = ""
    severity: Severity | None = None
    """None: of what has none."""
    state: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    number: int = 0
    """Of the change, alert or incident."""
    who: str = ""
    why: str = ""
    ticket: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def told_of_change(change: Change, system: str) -> Told:
    """An entry of the change log."""
    topic = Topic.ROLLOUTS if change.rollout or _ROLLOUT.match(change.what) else Topic.CHANGES
    return Told(
        id=f"{system}-change-{change.number}",
        topic=topic,
        at=change.at,
        title=change.what,
        text=change.why,
        system=system,
        service=change.service,
        number=change.number,
        who=change.who,
        why=change.why,
        ticket=change.ticket,
        numbers=change.numbers,
    )


def told_of_notice(notice: Notice, system: str) -> Told:
    """An alert or incident that moved."""
    return Told(
        id=f"{system}-notice-{notice.number}-{notice.at:.0f}",  # numbers that a kill on a full disk forgot come again
        topic=notice.topic,
        at=notice.at,
        title=notice.title,
        text=notice.text,
        system=system,
        service=notice.service,
        severity=notice.severity,
        state=notice.state,
        labels=notice.labels,
        number=notice.about,
        numbers=notice.numbers,
    )


def together(told: Sequence[Told]) -> Told:
    """Several alerts as one message, which has the id of the last and the severity of the worst."""
    last, worst = told[-1], min((each.severity or Severity.P3 for each in told), default=Severity.P3)
    if len(told) == 1:
        return last
    lines = "\n".join(f"{each.severity} {each.title}" for each in told)
    title = f"{len(told)} alerts of {last.service or last.system} {last.state}"
    return Told(
        id=last.id,
        topic=last.topic,
        at=last.at,
        title=title,
        text=lines,
        system=last.system,
        service=last.service,
        severity=worst,
        state=last.state,
        number=last.number,
    )


def as_json(told: Told, group: Sequence[Told] = ()) -> dict[str, Any]:
    """The body of a webhook, and what a command reads. `alerts`: of several that go together, each one."""
    body: dict[str, Any] = {
        "id": told.id,
        "topic": str(told.topic),
        "at": moment(told.at),
        "system": told.system,
        "service": told.service,
        "severity": str(told.severity) if told.severity else None,
        "state": told.state,
        "title": told.title,
        "text": told.text,
        "number": told.number,
        "labels": dict(told.labels),
        "who": told.who,
        "why": told.why,
        "ticket": told.ticket,
        "numbers": dict(told.numbers),
    }
    return body | ({"alerts": [as_json(each) for each in group]} if len(group) > 1 else {})


def as_slack(told: Told) -> dict[str, Any]:
    """An incoming webhook's body: https://api.slack.com/messaging/webhooks. `text` is for lists and screen readers."""
    headline = f"{mark(told)} *{escaped(told.title)}*".strip()
    blocks: list[dict[str, Any]] = [_section(headline)]
    if told.text:
        blocks.append(_section(escaped(told.text)))
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": escaped(_footer(told))}]})
    return {"text": f"{mark(told)} {told.title}".strip(), "blocks": blocks}


def as_mail(told: Told) -> tuple[str, str]:
    """Subject and text."""
    head = (
        f"[{told.system}]" + (f" {told.severity}" if told.severity else "") + (f" {told.state}" if told.state else "")
    )
    lines = [told.title, "", told.text, "" if told.text else None, _footer(told)]
    numbers = [f"{name}: {value:g}" for name, value in sorted(told.numbers.items())]
    body = "\n".join(line for line in [*lines, *([""] if numbers else []), *numbers] if line is not None)
    return _one_line(f"{head} {told.title}"), body + "\n"


def mark(told: Told) -> str:
    """A coloured sign for alerts and incidents."""
    if told.severity is None:
        return ""
    return OVER if told.state in ("resolved", "closed") else MARKS[told.severity]


def escaped(text: str) -> str:
    """Slack's three control characters, and no more than it takes."""
    text = text if len(text) < LONGEST else text[: LONGEST - 1] + "…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _footer(told: Told) -> str:
    parts = [told.system, told.service, f"{told.topic} {told.number}" if told.number else "", moment(told.at)]
    by = f"by {told.who}" if told.who else ""
    return " · ".join(part for part in [*parts, by, told.ticket] if part)


def _one_line(text: str) -> str:
    """A header must have no line break, whatever somebody wrote as a reason."""
    return " ".join(text.split())[:200]
