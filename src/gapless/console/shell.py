"""What surrounds every page: the menu, and how the system is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gapless.console.incidents import SEVERE, firing
from gapless.console.sight import Sight
from gapless.core.model.alert import Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of the menu. `badge` is a number that wants attention; 0: none."""

    name: str
    title: str
    href: str
    key: str
    badge: int = 0
    meaning: str = ""
    """What the badge counts."""
    tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    system: str
    state: str
    """In a word or two, for people."""
    tone: str
    menu: tuple[Entry, ...]


NO_BADGE = Entry(name="", title="", href="", key="")

MENU = (
    ("fleet", "Fleet", "/", "f"),
    ("rollouts", "Rollouts", "/rollouts", "r"),
    ("incidents", "Incidents", "/incidents", "i"),
    ("topology", "Topology", "/topology", "t"),
    ("instances", "Instances", "/instances", "n"),
    ("traces", "Traces", "/traces", "x"),
    ("configuration", "Configuration", "/configuration", "c"),
    ("objectives", "Objectives", "/objectives", "o"),
)
"""In the order in which people look: name, title, path, and the key that leads there after `g`."""


def shell(sight: Sight) -> Shell:
    badges = _badges(sight)
    menu = tuple(
        replace(badges.get(name, NO_BADGE), name=name, title=title, href=href, key=key)
        for name, title, href, key in MENU
        if name != "traces" or has_traces(sight)
    )
    state, tone = _state(sight)
    return Shell(system=sight.plane.system.name, state=state, tone=tone, menu=menu)


def has_traces(sight: Sight) -> bool:
    """Without any, the page would only be in the way."""
    return len(sight.plane.watching.traces.store) > 0


def _state(sight: Sight) -> tuple[str, str]:
    plane = sight.plane
    if not plane.gateway.pid:
        return "the gateway does not run", "bad"
    if alerts := firing(sight.records.all_of(Alert)):
        severe = any(alert.severity in SEVERE for alert in alerts)
        return f"{len(alerts)} alert{'s' if len(alerts) != 1 else ''} firing", "bad" if severe else "warn"
    if not plane.ready:
        return "settling", "warn"
    return "all as wanted", "good"


def _badges(sight: Sight) -> dict[str, Entry]:
    badges = {}
    if moving := [s for s in sight.records.services() if (r := sight.records.rollout(s.name)) and not r.state.ended]:
        badges["rollouts"] = replace(NO_BADGE, badge=len(moving), meaning="under way")
    if alerts := firing(sight.records.all_of(Alert)):
        badges["incidents"] = replace(NO_BADGE, badge=len(alerts), meaning="alerts firing", tone="bad")
    return badges
