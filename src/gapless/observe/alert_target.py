"""What goes back because of an alert: the change that its incident blames, when the evidence is clear, or else the
newest. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapless.core.configured import Config, ConfigRevision
from gapless.core.model import Rollout, RolloutState
from gapless.core.model.alert import Alert, Severity
from gapless.core.model.incident import Incident, Suspect

CLEAR = 0.6
"""More likely than everything else together, with something to spare. Of 250 made-up incidents 93 % had a suspect that
was so clear 15 s after the first alert began to hold, and 96 % of those were it; the newest change was it in 69 %."""
AHEAD = 2.0
"""So many times likelier than the next one."""
TELLING = ("place", "effect", "split")
"""One of them must speak for it. That it came shortly before is what the newest change has anyway."""
BLAME_WAIT_S = 5.0
"""An incident is opened and weighed within a look or two after its alert; a slow Prometheus is not waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What can go back: `kind` is `rollout under way`, `rollout` or `config`."""

    kind: str
    service: str
    at: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`target` None: nothing is taken back. `reason` says why this one, or why none."""

    target: Target | None
    reason: str


def choice(targets: Sequence[Target], incident: Incident | None) -> Choice:
    """`targets`: what can go back, the newest first. A clear suspect that cannot go back keeps the others where they
    are: they are not to blame."""
    suspect = clear(incident.suspects) if incident else None
    if suspect is None:
        newest = targets[0] if targets else None
        return Choice(target=newest, reason="the newest change" if newest else "")
    blamed = f"the first suspect of incident {incident.number if incident else 0} ({suspect.probability:.0%})"
    target = next((each for each in targets if _is(each, suspect)), None)
    if target is None:
        return Choice(target=None, reason=f"{suspect.what} is {blamed}, and cannot be rolled back")
    return Choice(target=target, reason=f"{blamed}: {suspect.evidence[0]}" if suspect.evidence else blamed)


def clear(suspects: Sequence[Suspect]) -> Suspect | None:
    """The first one, when it is likely, well ahead of the next, and not only because of when it came."""
    if not suspects:
        return None
    first, next_best = suspects[0], max((each.probability for each in suspects[1:]), default=0.0)
    telling = max(first.numbers.get(name, 0.0) for name in TELLING) > 0
    return first if telling and first.probability >= max(CLEAR, AHEAD * next_best) else None


def _is(target: Target, suspect: Suspect) -> bool:
    same = suspect.what == target.what or suspect.what.startswith(f"{target.what}:")
    return suspect.service == target.service and same


def undecided(targets: Sequence[Target], alert: Alert, incident: Incident | None, now_at: float) -> bool:
    """Whether to wait a moment for the incident to be weighed: where there is a choice, and somebody will weigh it."""
    weighed = incident is not None and incident.blamed_at > 0
    opens = alert.severity <= Severity.P1
    return len(targets) > 1 and opens and not weighed and 0 <= now_at - alert.fired_at < BLAME_WAIT_S


def targets_of(
    services: Sequence[str],
    rollouts: Sequence[Rollout],
    configs: Sequence[tuple[Config, ConfigRevision | None]],
    since_at: float,
    lookback_s: float,
) -> list[Target]:
    """What can go back, the newest first, among these services: their newest rollouts, and the configuration in force
    with its revision. `since_at`: when the trouble began; what is older by more than `lookback_s` is left alone."""
    found = [target for rollout in rollouts if rollout.service in services and (target := _of_rollout(rollout))]
    found += [
        target
        for config, revision in configs
        if config.service in services and (target := _of_config(config, revision))
    ]
    recent = [target for target in found if since_at - target.at <= lookback_s]
    return sorted(recent, key=lambda target: -target.at)


def _of_rollout(rollout: Rollout) -> Target | None:
    name = f"rollout {rollout.number} of {rollout.service} ({rollout.before} → {rollout.after})"
    if not rollout.state.ended:
        kind, at = "rollout under way", rollout.shifted_at or rollout.started_at
        return (
            Target(kind=kind, service=rollout.service, at=at, what=name) if rollout.winner != rollout.before else None
        )
    if rollout.state is RolloutState.PROMOTED:
        return Target(kind="rollout", service=rollout.service, at=rollout.decided_at or rollout.ended_at, what=name)
    return None


def _of_config(config: Config, revision: ConfigRevision | None) -> Target | None:
    if stage := config.staging:
        what = f"configuration of {config.service}, revision {stage.number}"
        return Target(kind="config", service=config.service, at=stage.started_at, what=what)
    if revision is None or revision.number <= 1 or revision.label.startswith("as revision"):
        return None  # nothing before it, or itself a way back
    what = f"configuration of {config.service}, revision {revision.number}"
    return Target(kind="config", service=config.service, at=revision.at, what=what)
