"""What is done about alerts without a person. Pure.

An action is done once for each alert, one at a time on each service, with a pause in between, so often at most, and not
again when the last one of its kind was of no use. What goes back is chosen in `alert_target`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gapless.core.model import Service
from gapless.core.model.alert import Action, ActionKind, ActionState, Alert, AlertPolicy, AlertRule, AlertState, Mode

EFFECT_S = {ActionKind.ROLL_BACK: 180.0, ActionKind.SCALE: 600.0, ActionKind.BREAK: 120.0}
"""So long after it an alert should be over; else it was of no use."""
LOST_S = 120.0
"""An action that was begun so long ago has ended, or whoever did it has."""
FORCED_S = 60.0
"""How long a breaker stays open: what is refused counts as errors, so that only trying tells whether it is over."""
SCALED_S = 1800.0
"""How long further instances stay after their alert was over."""
GROWTH = 1.5
DONE = (ActionState.DONE, ActionState.FAILED, ActionState.UNDONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """`state` PROPOSED or REFUSED: only to be written; BEGUN: to be done; None: not now."""

    state: ActionState | None
    detail: str = ""


def ruling(
    alert: Alert, kind: ActionKind, mode: Mode, actions: Sequence[Action], policy: AlertPolicy, now_at: float
) -> Ruling:
    """Whether an action may be done now. `actions`: all that are known."""
    if alert.state is not AlertState.FIRING or alert.test or mode is Mode.OFF or kind is ActionKind.PAGE:
        return Ruling(state=None)
    if any(each.alert == alert.number and each.kind is kind for each in actions):
        return Ruling(state=None)
    if mode is Mode.PROPOSE:
        return Ruling(state=ActionState.PROPOSED, detail="`act: act` in gapless.yaml has it done")
    ours = [each for each in actions if each.service == alert.service]
    if any(each.state is ActionState.BEGUN for each in ours):
        return Ruling(state=None)
    recent = [each for each in ours if each.state in DONE and 0 <= now_at - each.at < policy.within_s]
    if any(each.kind is kind and each.effective is False for each in recent):
        return Ruling(state=ActionState.REFUSED, detail=f"the last time, to {kind} was of no use")
    if len(recent) >= policy.most:
        detail = f"there were {len(recent)} actions on {alert.service} within {policy.within_s / 60:g} min"
        return Ruling(state=ActionState.REFUSED, detail=detail)
    if recent and now_at - max(each.at for each in recent) < policy.cooldown_s:
        return Ruling(state=None)
    return Ruling(state=ActionState.BEGUN)


def judged(action: Action, alert: Alert | None, now_at: float) -> Action:
    """The action with whether it was of use, once that can be told."""
    if action.state is not ActionState.DONE or action.effective is not None:
        return action
    if alert is None or alert.state is AlertState.RESOLVED:
        return replace(action, effective=True)
    late = not 0 <= now_at - action.at < EFFECT_S.get(action.kind, 120.0)
    return replace(action, effective=False) if late else action


def abandoned(action: Action, now_at: float) -> Action:
    """One that was begun by a control plane which is no more. Nobody knows whether it was done: it is not repeated."""
    if action.state is ActionState.BEGUN and not 0 <= now_at - action.at < LOST_S:
        detail = "the control plane ended in between; see the change log whether it was done"
        return replace(action, state=ActionState.FAILED, ended_at=now_at, detail=detail)
    return action


def to_undo(action: Action, alert: Alert | None, now_at: float) -> bool:
    """Whether it has had its time: its alert is over, and it was not for good. Instances stay for a while: that it is
    over may be because of them."""
    if action.state is not ActionState.DONE or not action.undo:
        return False
    if alert is None:
        return True
    stays_s = SCALED_S if action.kind is ActionKind.SCALE else 0.0
    return alert.state is AlertState.RESOLVED and not 0 <= now_at - alert.resolved_at < stays_s


def more_instances(service: Service, policy: AlertPolicy) -> int:
    """What `scale` asks for; as many as there are when it has come to its end."""
    asked = service.declared or service.instances
    most = max(math.floor(asked * policy.most_instances), service.instances)
    return min(max(math.ceil(service.instances * GROWTH), service.instances + 1), most)


def upstream(service: str, services: Sequence[Service]) -> list[str]:
    """The service and all that it needs, nearest first."""
    needs = {each.name: each.needs for each in services}
    found = [service]
    for name in found:
        found += [other for other in needs.get(name, ()) if other not in found]
    return found


def kinds_of(rule: AlertRule) -> list[ActionKind]:
    """What is done, beside telling."""
    return [kind for kind in rule.actions if kind is not ActionKind.PAGE]
