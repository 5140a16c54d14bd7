"""Live configuration: what is in force, who changed it and why, what was different, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gapless.config.reading import differences
from gapless.console import words
from gapless.console.sight import Sight
from gapless.core.configured import ConfigRevision, ConfigStage
from gapless.core.errors import UnknownName

SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a diff. `sign`: +, - or ~."""

    sign: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    revision: ConfigRevision
    standing: str
    tone: str
    lines: tuple[Line, ...]
    can_return: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is different in revision `after`; 0 is nothing set."""

    before: int
    after: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationView:
    services: tuple[tuple[str, int], ...]
    """The tabs: each service and its revision in force (0: none)."""
    service: str
    current: int
    values: tuple[tuple[str, str], ...]
    """In force, by dotted path."""
    stage: ConfigStage | None
    revisions: tuple[Revision, ...]
    compared: Comparison | None


async def configuration_view(sight: Sight, params: Mapping[str, str]) -> ConfigurationView:
    names = [s.name for s in sight.records.services()]
    name = params.get("service") or _foremost(sight, names)
    if name not in names:
        raise UnknownName(f"there is no service {name!r}", f"The services are: {', '.join(names)}.")
    config = sight.records.config(name)
    current = sight.records.config_revision(name, config.current)
    history = sight.plane.config.history(name)
    by_number = {revision.number: revision for revision, _ in history}
    return ConfigurationView(
        services=tuple((each, sight.records.config(each).current) for each in names),
        service=name,
        current=config.current,
        values=tuple(flat(current.values)) if current else (),
        stage=config.staging,
        revisions=tuple(_revision(r, standing, by_number) for r, standing in history[:SHOWN]),
        compared=_compared(params, name, by_number),
    )


def _compared(params: Mapping[str, str], service: str, by_number: Mapping[int, ConfigRevision]) -> Comparison | None:
    """Of any two, as `?before=1&after=3` asks for."""
    if "before" not in params or "after" not in params:
        return None
    before, after = (_asked(params[name], service, by_number) for name in ("before", "after"))
    values = [by_number[number].values if number else {} for number in (before, after)]
    return Comparison(before=before, after=after, lines=tuple(map(line, differences(*values))))


def _asked(text: str, service: str, by_number: Mapping[int, ConfigRevision]) -> int:
    number = next((n for n in (0, *by_number) if str(n) == text), None)
    if number is None:
        raise UnknownName(f"{service} has no revision {text!r}", "See its history.")
    return number


def _foremost(sight: Sight, names: list[str]) -> str:
    """The first that has a configuration."""
    return next((name for name in names if sight.records.config(name).newest), names[0] if names else "")


def _revision(revision: ConfigRevision, standing: str, by_number: Mapping[int, ConfigRevision]) -> Revision:
    before = max((n for n in by_number if n < revision.number), default=0)
    earlier: Mapping[str, Any] = by_number[before].values if before else {}
    tones = {"in force": "good", "being tried": "accent", "rolled back": "bad"}
    return Revision(
        revision=revision,
        standing=standing,
        tone=tones.get(standing, "plain"),
        lines=tuple(map(line, differences(earlier, revision.values))),
        can_return=standing in ("", "rolled back"),
    )


def line(text: str) -> Line:
    """A difference as `gapless config diff` words it, with its sign apart."""
    sign, _, rest = text.partition(" ")
    return Line(sign=sign, text=rest) if sign in ("+", "-", "~") else Line(sign="~", text=text)


def flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """`{"price": {"max": 5}}` as `price.max`, `5`."""
    found: list[tuple[str, str]] = []
    for name in sorted(values):
        value = values[name]
        if isinstance(value, Mapping) and value:
            found += flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", _shown(value)))
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value) if value is not None else words.NOTHING
