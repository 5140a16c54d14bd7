"""The verbs of `gapless config`, one method each. CLI and HTTP are thin clients of these.

A revision is written only after every worker that listens has said that it would take it: what is wrong is refused with
its place, and nothing changes anywhere. Written is what counts; instances that are away hear of it when they come back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gapless.config.edits import edited
from gapless.config.reading import differences
from gapless.control.commands import Author, Commands
from gapless.control.publisher import Publisher
from gapless.control.records import Records, persist
from gapless.control.status import stage_status
from gapless.core import codec
from gapless.core.configured import Config, ConfigReply, ConfigRevision, ConfigStage
from gapless.core.errors import ConfigError, UnknownName
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import Change, Phase
from gapless.core.ports import World
from gapless.discovery.lasting import LONGEST_BACKOFF_S
from gapless.rollout import staging

KEPT = 100
"""Revisions of each service that can be looked at and gone back to. They are keys of their own: no compaction of the
store takes them. The change log keeps who changed what, and why, for ever."""
LARGEST = 262_144
"""Bytes of one revision as JSON: it travels to every worker, and etcd takes 1.5 MB in a request."""
HEARD_LIMIT_S = 3.0
"""How long an answer waits for the instances to say that they obey; the change is written by then."""
GATHER_LIMIT_S = LONGEST_BACKOFF_S + 1.0
"""How long a question waits for ready instances to listen: so long may they need to find a control plane again."""
LOOK_S = 0.02
DIFFERENCES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A service's whole configuration as it is to be. `places`: where its parts were written, by dotted path."""

    values: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict)


class ConfigCommands:
    """Acts on the records, and asks the instances before."""

    def __init__(
        self, records: Records, publisher: Publisher, commands: Commands, world: World, events: Events
    ) -> None:
        self._records = records
        self._publisher = publisher
        self._commands = commands
        self._world = world
        self._events = events
        self._writing = asyncio.Lock()
        """Held from the reading of what is there until what follows from it is written."""

    # Looking.

    async def get(self, name: str) -> dict[str, Any]:
        """What the store says, and what is in force in one instance, with where each value comes from."""
        self._commands.known(name)
        config = self._records.config(name)
        revision = self._records.config_revision(name, config.current)
        answer = await self._publisher.audience.ask_one(name)
        return {
            "service": name,
            "revision": config.current,
            "label": revision.label if revision else "",
            "values": dict(revision.values) if revision else {},
            "stage": stage_status(config.stage) if config.stage else None,
            "instance": answer.instance if answer else "",
            "settings": dict(answer.shown) if answer else {},
            "pending": list(answer.pending) if answer else [],
        }

    def history(self, name: str) -> list[tuple[ConfigRevision, str]]:
        """The revisions that are kept, newest first, and how each stands."""
        self._commands.known(name)
        config = self._records.config(name)
        return [(each, _standing(config, each.number)) for each in self._records.config_revisions(name)[::-1]]

    def diff(self, name: str, before: int | None, after: int) -> tuple[int, int, list[str]]:
        """What is different between two revisions, line by line, and their numbers. `before`: 0 is the time before the
        first; None the revision that was in force before the other. `after`: 0 is the one in force now."""
        self._commands.known(name)
        after = after or self._records.config(name).current
        if before is None:
            before = self._earlier(name, after)
        return before, after, differences(self._values(name, before), self._values(name, after))

    # Changing.

    async def set(
        self,
        name: str,
        given: Mapping[str, Any],
        gone: Sequence[str],
        author: Author,
        *,
        weight: int = 0,
        unchecked: bool = False,
    ) -> dict[str, Any]:
        """Change single values. Raises ConfigError, Busy, UnknownName. `weight`: the share of the instances, in
        buckets, that has it first; 0: all at once."""
        self._commands.known(name)
        async with self._writing:
            current = self._records.config(name).current
            values = edited(self._values(name, current), given, gone)
            places = _untouched(self._places(name, current), (*given, *gone))
            await self._write({name: Wanted(values=values, places=places)}, author, "", weight, unchecked)
        return await self._outcome(name)

    async def replace(
        self,
        wanted: Mapping[str, Wanted],
        label: str,
        author: Author,
        *,
        weight: int = 0,
        unchecked: bool = False,
    ) -> list[dict[str, Any]]:
        """Give services a whole configuration each: all of them, or none when one is refused."""
        for name in wanted:
            self._commands.known(name)
        async with self._writing:
            await self._write(wanted, author, label, weight, unchecked)
        return [await self._outcome(name) for name in wanted]

    async def rollback(
        self, name: str, number: int, author: Author, *, weight: int = 0, unchecked: bool = False
    ) -> dict[str, Any]:
        """End the stage under way; or go back to a revision, 0: the one that was in force before. That is a new
        revision with the old values: the history only grows. Who stays silent when asked does not stop it: the present
        configuration may be the reason."""
        self._commands.known(name)
        async with self._writing:
            config = self._records.config(name)
            if config.staging and not number:
                await self._abort(name, author)
            else:
                number = number or self._before(name)
                wanted = {name: Wanted(values=self._values(name, number), places=self._places(name, number))}
                await self._write(wanted, author, f"as revision {number}", weight, unchecked, patient=False)
        return await self._outcome(name)

    def _before(self, name: str) -> int:
        current = self._records.config(name).current
        if not (before := self._earlier(name, current)):
            raise UnknownName(f"{name} has no revision before {current}", f"See `gapless config history {name}`.")
        return before

    def _earlier(self, name: str, number: int) -> int:
        """The revision that was in force before one, as far as it is kept; else 0."""
        abandoned = self._records.config(name).abandoned
        numbers = [each.number for each in self._records.config_revisions(name)]
        return max((n for n in numbers if n < number and n not in abandoned), default=0)

    async def _abort(self, name: str, author: Author) -> None:
        async def write() -> None:
            config = self._records.config(name)
            if config.staging is None:
                return  # it has just ended by itself
            ended = staging.abort(config.staging, author.why or f"rolled back by {author.who}", self._world.time())
            goal = f"revision {ended.before}" if ended.before else "none"
            what = f"configuration of {name}, revision {ended.number}: back to {goal}"
            await self._commit([self._change(author, what, name, self._records.next_change())], config.moved(ended))

        await persist(write)
        self._publisher.publish(name)

    async def _write(
        self,
        wanted: Mapping[str, Wanted],
        author: Author,
        label: str,
        weight: int,
        unchecked: bool,
        patient: bool = True,
    ) -> None:
        """`patient`: silence stops the change."""
        drafts = [self._revision(name, each, author, label) for name, each in wanted.items()]
        revisions = [revision for revision in drafts if revision is not None]
        if not revisions:
            return
        if not unchecked:
            await self._check(revisions, patient)
        doubt = ", not checked by any instance" if unchecked else ""

        async def write() -> None:
            values = [value for each in revisions for value in (each, self._config(each, weight))]
            gone = [old for each in revisions for old in self._outlived(each.service)]
            first = self._records.next_change()
            changes = [
                self._change(author, f"{_titled(each)}: {each.what}{doubt}", each.service, first + place)
                for place, each in enumerate(revisions)
            ]
            await self._commit(changes, *values, delete=gone)

        await persist(write)
        for revision in revisions:
            self._publisher.publish(revision.service)

    def _revision(self, name: str, wanted: Wanted, author: Author, label: str) -> ConfigRevision | None:
        """None when nothing is different. Raises Busy, ConfigError."""
        self._commands.refuse_when_busy(name)
        config = self._records.config(name)
        lines = differences(self._values(name, config.current), wanted.values)
        if not lines and config.current:
            return None
        if (size := len(codec.encode(wanted.values))) > LARGEST:
            raise ConfigError(f"the configuration of {name} has {size} bytes of {LARGEST}", "Keep less in it.")
        more = f"; and {len(lines) - DIFFERENCES_SHOWN} more" if len(lines) > DIFFERENCES_SHOWN else ""
        return ConfigRevision(
            service=name,
            number=config.newest + 1,
            values=wanted.values,
            places=wanted.places,
            label=label,
            what=("; ".join(lines[:DIFFERENCES_SHOWN]) + more) or "nothing set",
            at=self._world.time(),
            who=author.who,
            why=author.why,
            ticket=author.ticket,
        )

    async def _check(self, revisions: Sequence[ConfigRevision], patient: bool) -> None:
        """Raises ConfigError with what any worker has against any of them, each reason once."""
        told: dict[str, None] = {}
        silent = False
        for revision in revisions:
            absent = await self._absent(revision.service) if patient else []
            answers = await self._publisher.audience.ask(revision.service, revision)
            if not answers and patient:
                raise ConfigError(
                    f"no instance of {revision.service} listens, so nobody can say whether this fits",
                    f"Wait until one is ready (`gapless status {revision.service}`), give it live settings"
                    " (docs/configuration.md), or pass --unchecked.",
                )
            heard = [answer for answer in (*answers, *absent) if patient or not answer.silent]
            told.update(dict.fromkeys(line for answer in heard for line in _against(answer)))
            silent |= any(answer.silent for answer in heard)
        if told:
            asking = " Who cannot answer is not asked with --unchecked." if silent else ""
            raise ConfigError("\n".join(told), f"Nothing was changed.{asking}")

    async def _absent(self, name: str) -> list[ConfigReply]:
        """A word for each ready instance that does not listen, not even after the time in which it finds a control
        plane that was away."""
        for _ in range(math.ceil(GATHER_LIMIT_S / LOOK_S)):
            if not (absent := self._deaf(name)):
                return []
            await self._world.sleep(LOOK_S)
        what = "it does not listen"
        return [ConfigReply(instance=each, worker="", ok=False, silent=True, what=what) for each in sorted(absent)]

    def _deaf(self, name: str) -> frozenset[str]:
        ready = frozenset(each.id for each in self._records.instances(name) if each.phase is Phase.READY)
        return ready - {each.instance for each in self._publisher.audience.of(name)}

    def _config(self, revision: ConfigRevision, weight: int) -> Config:
        """Raises Busy when something else has begun meanwhile."""
        self._commands.refuse_when_busy(revision.service)
        config = self._records.config(revision.service)
        if not weight:
            return replace(config, current=revision.number, newest=revision.number)
        now_at = self._world.time()
        service = self._commands.known(revision.service)
        stage = ConfigStage(
            service=revision.service,
            number=revision.number,
            before=config.current,
            weight=weight,
            policy=service.rollout,
            started_at=now_at,
            since_at=now_at,
        )
        instances = self._records.instances(revision.service)
        ready = {i.id for i in instances if i.phase is Phase.READY}
        return replace(config, newest=revision.number, stage=staging.begin(stage, ready))

    def _outlived(self, name: str) -> list[ConfigRevision]:
        """Revisions that are kept no longer."""
        config = self._records.config(name)
        return [each for each in self._records.config_revisions(name)[: -KEPT + 1] if each.number != config.current]

    async def _outcome(self, name: str) -> dict[str, Any]:
        """Where it stands, after the instances had a moment to obey."""
        for _ in range(math.ceil(HEARD_LIMIT_S / LOOK_S)):
            if not self._publisher.lacking(name):
                break
            await self._world.sleep(LOOK_S)
        config = self._records.config(name)
        reports = [each.report for each in self._publisher.audience.of(name) if each.report]
        lacking = {each.instance for each in self._publisher.lacking(name)}
        return {
            "service": name,
            "revision": config.current,
            "newest": config.newest,
            "stage": stage_status(config.stage) if config.stage else None,
            "instances": sorted({report.instance for report in reports if report.ok} - lacking),
            "lacking": sorted(lacking),
            "refused": sorted({line for report in reports for line in _against(report)}),
            "pending": sorted({line for report in reports for line in report.pending}),
            "failures": sorted({line for report in reports for line in report.failures}),
        }

    def _values(self, name: str, number: int) -> Mapping[str, Any]:
        """Raises UnknownName for a revision that is not there, or not any more."""
        if not number:
            return {}
        revision = self._records.config_revision(name, number)
        if revision is None:
            raise UnknownName(
                f"there is no revision {number} of {name}'s configuration",
                f"See `gapless config history {name}`: the last {KEPT} are kept.",
            )
        return revision.values

    def _places(self, name: str, number: int) -> Mapping[str, str]:
        revision = self._records.config_revision(name, number)
        return revision.places if revision else {}

    def _change(self, author: Author, what: str, service: str, number: int) -> Change:
        return Change(
            number=number,
            at=self._world.time(),
            who=author.who,
            what=what,
            service=service,
            why=author.why,
            ticket=author.ticket,
            undoes=author.undoes,
        )

    async def _commit(self, changes: Sequence[Change], *values: Any, delete: Sequence[Any] = ()) -> None:
        await self._records.write(*changes, *values, delete=delete)
        for change in changes:
            self._events(ChangeRecorded(change=change))


def _titled(revision: ConfigRevision) -> str:
    return f"configuration of {revision.service}, revision {revision.number}"


def _standing(config: Config, number: int) -> str:
    if number == config.current:
        return "in force"
    if config.staging and number == config.staging.number:
        return "being tried"
    return "rolled back" if number in config.abandoned else ""


def _untouched(places: Mapping[str, str], touched: Sequence[str]) -> dict[str, str]:
    """Where the parts stand that have not been set now."""
    return {
        path: place
        for path, place in places.items()
        if not any(path == each or path.startswith(f"{each}.") for each in touched)
    }


def _against(reply: ConfigReply) -> list[str]:
    """What a worker has against a revision. All say the same of what is wrong by itself; a silent one says its name."""
    if reply.ok:
        return []
    return [f"{reply.instance}: {line}" if reply.silent else line for line in reply.what.splitlines()]
