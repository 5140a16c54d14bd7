"""Does something about alerts, within limits: rolls back, scales, opens breakers, and takes back what was only for the
time of the alert. What is about to be done is written before, so that nothing is done twice."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from gapless.control.commands import Author, Commands
from gapless.control.configure import ConfigCommands
from gapless.control.loop import Jobs
from gapless.control.records import Records, persist
from gapless.control.rollouts import RolloutCommands
from gapless.core.errors import GaplessError, InvalidTransition, UnknownName
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import Change, Service
from gapless.core.model.alert import (
    Action,
    ActionKind,
    ActionState,
    Alert,
    AlertPolicy,
    AlertRule,
    AlertState,
    Forced,
    Silence,
)
from gapless.core.model.incident import Incident
from gapless.core.ports import World
from gapless.observe import alert_actions, alert_state, alert_target
from gapless.observe.alert_actions import FORCED_S, Ruling
from gapless.observe.alert_defaults import Watch, mode_of
from gapless.observe.alert_target import Choice, Target

_log = logging.getLogger("gapless.alerts")

UNDO_AGAIN_S = 30.0
KEPT = 500
"""Actions, the last ones."""


class Actor:
    """`step` is one look at what fires, at what was done, and at what has had its time."""

    def __init__(
        self,
        policy: AlertPolicy,
        records: Records,
        commands: Commands,
        rollouts: RolloutCommands,
        config: ConfigCommands,
        watches: Callable[[], list[Watch]],
        world: World,
        events: Events,
    ) -> None:
        self.policy = policy
        self._records = records
        self._commands = commands
        self._rollouts = rollouts
        self._config = config
        self._watches = watches
        self._world = world
        self._events = events
        self.jobs = Jobs(lambda: None)
        self._undo_at: dict[int, float] = {}
        self._acts: Mapping[ActionKind, Callable[[Action, Alert], Awaitable[Action]]] = {
            ActionKind.ROLL_BACK: self._roll_back,
            ActionKind.SCALE: self._scale,
            ActionKind.BREAK: self._break,
        }

    async def step(self) -> None:
        await self._look_back()
        rules = {watch.rule.name: watch.rule for watch in self._watches()}
        silences, now_at = self._records.all_of(Silence), self._world.time()
        for alert in self._records.all_of(Alert):
            rule = rules.get(alert.rule)
            if rule and alert.state is AlertState.FIRING and not alert_state.silenced(alert, silences, now_at):
                await self._consider(alert, rule)

    async def _look_back(self) -> None:
        """What came of what was done; what has had its time is taken back."""
        now_at, changed = self._world.time(), []
        actions = self._records.all_of(Action)
        for action in actions:
            alert = self._records.numbered(Alert, action.alert)
            after = alert_actions.judged(action, alert, now_at)
            if action.service not in self.jobs:
                after = alert_actions.abandoned(after, now_at)
            changed += [after] if after != action else []
            if alert_actions.to_undo(after, alert, now_at):
                self._begin_undo(after)
        over = [each for each in self._records.all_of(Forced) if not 0 < each.until_at - now_at <= FORCED_S]
        await self._records.write(*changed, delete=[*over, *actions[:-KEPT]])

    def _begin_undo(self, action: Action) -> None:
        """Not again at once when it was refused, for instance because a rollout is under way."""
        if self._world.now() < self._undo_at.get(action.number, 0.0):
            return
        self._undo_at[action.number] = self._world.now() + UNDO_AGAIN_S

        async def undo() -> None:
            await self.undo(action)
            del self._undo_at[action.number]

        self.jobs.start(f"undo {action.number}", undo)

    async def _consider(self, alert: Alert, rule: AlertRule) -> None:
        for kind in alert_actions.kinds_of(rule):
            mode = mode_of(rule, kind, self.policy)
            actions, now_at = self._records.all_of(Action), self._world.time()
            ruling = alert_actions.ruling(alert, kind, mode, actions, self.policy, now_at)
            if ruling.state is not None and not (kind is ActionKind.ROLL_BACK and self._undecided(alert)):
                await self._begin(alert, rule, kind, ruling)

    async def _begin(self, alert: Alert, rule: AlertRule, kind: ActionKind, ruling: Ruling) -> None:
        assert ruling.state
        reason = self._choice(alert).reason if kind is ActionKind.ROLL_BACK else ""
        action = Action(
            number=self._records.next_number(Action),
            alert=alert.number,
            service=alert.service,
            kind=kind,
            state=ruling.state,
            what=self._what(kind, alert),
            at=self._world.time(),
            detail="; ".join(text for text in (reason, ruling.detail) if text),
            undo={"guard": rule.guard} if kind is ActionKind.BREAK else {},
            numbers={"value": alert.value, "bound": alert.bound},
        )
        await self._records.write(action)
        _log.info("alert %d: %s %s (%s)", alert.number, action.state, action.what, action.detail or alert.summary)
        if action.state is ActionState.BEGUN:
            self.jobs.start(alert.service, lambda: self._do(action, alert))

    def _what(self, kind: ActionKind, alert: Alert) -> str:
        match kind:
            case ActionKind.ROLL_BACK:
                target = self._choice(alert).target
                return f"roll back {target.what}" if target else "roll back what changed last"
            case ActionKind.SCALE:
                service = self._records.service(alert.service)
                wanted = alert_actions.more_instances(service, self.policy) if service else 0
                return f"scale {alert.service} to {wanted} instances"
            case _:
                return f"open the breakers of {alert.service} for {FORCED_S:g} s"

    async def _do(self, action: Action, alert: Alert) -> None:
        try:
            done = await self._acts[action.kind](action, alert)
        except GaplessError as error:
            done = replace(action, state=ActionState.FAILED, detail=error.what)
        ended = replace(done, ended_at=self._world.time())
        await self._keep(ended)
        _log.info("alert %d: %s: %s %s", alert.number, ended.what, ended.state, ended.detail)

    async def _keep(self, action: Action) -> None:
        async def write() -> None:
            await self._records.write(action)

        await persist(write)

    def _author(self, action: Action, alert: Alert | None) -> Author:
        numbers = f"{alert.value:.4g}, bound {alert.bound:.4g}" if alert else "over"
        why = f"alert {action.alert}: {alert.summary if alert else ''} ({numbers})"
        return Author(who="gapless", why=why, ticket=f"action-{action.number}")

    def _targets(self, alert: Alert) -> list[Target]:
        services = self._records.services()
        near = alert_actions.upstream(alert.service, services)
        rollouts = [newest for name in near if (newest := self._records.rollout(name))]
        configs = [
            (config, self._records.config_revision(name, config.current))
            for name in near
            if (config := self._records.config(name))
        ]
        return alert_target.targets_of(near, rollouts, configs, alert.since_at, self.policy.lookback_s)

    def _incident(self, alert: Alert) -> Incident | None:
        found = (each for each in self._records.all_of(Incident) if alert.number in each.alerts)
        return next(found, None)

    def _choice(self, alert: Alert) -> Choice:
        return alert_target.choice(self._targets(alert), self._incident(alert))

    def _undecided(self, alert: Alert) -> bool:
        return alert_target.undecided(self._targets(alert), alert, self._incident(alert), self._world.time())

    async def _roll_back(self, action: Action, alert: Alert) -> Action:
        """Raises what the commands raise."""
        choice = self._choice(alert)
        target = choice.target
        if target is None:
            minutes = self.policy.lookback_s / 60
            detail = choice.reason or f"nothing that can go back has changed in the {minutes:g} min before"
            return replace(action, state=ActionState.REFUSED, detail=detail)
        author = self._author(action, alert)
        author = replace(author, why=f"{author.why}; {choice.reason}")
        if target.kind == "config":
            await self._config.rollback(target.service, 0, author)
        else:
            await self._rollouts.rollback(target.service, author)
        return replace(action, state=ActionState.DONE, what=f"roll back {target.what}", detail=choice.reason)

    async def _scale(self, action: Action, alert: Alert) -> Action:
        """Raises what the command raises."""
        service = self._commands.known(alert.service)
        wanted = alert_actions.more_instances(service, self.policy)
        if wanted <= service.instances:
            detail = f"{service.instances} instances are the most that `alerts.limits.instances` allows"
            return replace(action, state=ActionState.REFUSED, detail=detail)
        await self._commands.scale(service.name, wanted, self._author(action, alert))
        undo = {"from": str(service.instances), "to": str(wanted)}
        return replace(action, state=ActionState.DONE, undo=undo, what=f"scale {service.name} to {wanted} instances")

    async def _break(self, action: Action, alert: Alert) -> Action:
        """Raises UnknownName."""
        service = self._commands.known(alert.service)
        guard = action.undo.get("guard", "")
        if not guard and not _has_breaker(service):
            detail = f"{service.name} has no breaker: give it `protect: {{breaker: 50%}}`, or the rule a `guard`"
            return replace(action, state=ActionState.REFUSED, detail=detail, undo={})
        now_at = self._world.time()
        forced = Forced(
            service=service.name, guard=guard, mode="open", until_at=now_at + FORCED_S, action=action.number
        )
        await self._commit(self._author(action, alert), action.what, service.name, forced)
        return replace(action, state=ActionState.DONE, undo={"guard": guard})

    async def undo(self, action: Action, author: Author | None = None) -> Action:
        """Bring back the state before. Raises InvalidTransition, and what the commands raise."""
        if action.state is not ActionState.DONE or not action.undo:
            raise InvalidTransition(f"action {action.number} ({action.what}) cannot be undone", _way_back(action))
        author = author or replace(self._author(action, None), why=f"alert {action.alert} is over")
        if action.kind is ActionKind.SCALE:
            await self._scale_back(action, author)
        elif forced := next((f for f in self._records.all_of(Forced) if f.action == action.number), None):
            change = self._change(author, f"breakers of {action.service} decide again", action.service)
            await self._records.write(change, delete=[forced])
            self._events(ChangeRecorded(change=change))
        undone = replace(action, state=ActionState.UNDONE, undone_at=self._world.time())
        await self._keep(undone)
        return undone

    async def _scale_back(self, action: Action, author: Author) -> None:
        service = self._records.service(action.service)
        if service and str(service.instances) == action.undo["to"]:  # else somebody has decided otherwise since
            await self._commands.scale(service.name, int(action.undo["from"]), author)

    async def undo_number(self, number: int, author: Author) -> Action:
        """By hand. Raises UnknownName, InvalidTransition."""
        action = self._records.numbered(Action, number)
        if action is None:
            raise UnknownName(f"there is no action {number}", "See `gapless alerts --actions`.")
        return await self.undo(action, author)

    def _change(self, author: Author, what: str, service: str) -> Change:
        number, at = self._records.next_change(), self._world.time()
        return Change(
            number=number, at=at, who=author.who, what=what, service=service, why=author.why, ticket=author.ticket
        )

    async def _commit(self, author: Author, what: str, service: str, *values: object) -> None:
        async def write() -> Change:
            change = self._change(author, what, service)
            await self._records.write(change, *values)
            return change

        self._events(ChangeRecorded(change=await persist(write)))


def _has_breaker(service: Service) -> bool:
    places = [service.protect, *(route.protect for route in service.routes)]
    return any(protect and protect.breaker for protect in places)


def _way_back(action: Action) -> str:
    if action.kind is ActionKind.ROLL_BACK:
        return "Deploy again what was rolled back: `gapless deploy NAME --release VERSION`."
    return "See `gapless alerts --actions`."
