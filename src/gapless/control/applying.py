"""gapless.yaml becomes the definition of all services, in one transaction: at the start of a control plane, and when
`gapless apply` asks for it. What is written is what the whole file says, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gapless.control.commands import Author, Commands
from gapless.control.records import Records, key_of, persist
from gapless.control.trace import traced
from gapless.core.errors import InvalidTransition
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import BUCKETS, Change, Pool, Protocol, Release, Service, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What becomes of one service: the records that are written, and those that go."""

    service: str
    what: str
    values: tuple[Any, ...]
    gone: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The entries of the change log (only what they would be, of a preview), the revision at which all of it was
    written, and the records before and after by their keys (None: none), for `restore`."""

    changes: tuple[Change, ...] = ()
    revision: int = 0
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


class Applying:
    """Acts on the records; the loops do the rest."""

    def __init__(self, records: Records, commands: Commands, events: Events) -> None:
        self._records = records
        self._commands = commands
        self._events = events

    def check(self, wanted: Mapping[str, Service]) -> None:
        """One change of a service's capacity at a time, and none that its running instances would not understand.
        Raises Busy, InvalidTransition."""
        for name, service in wanted.items():
            known = self._records.service(name)
            if known and not self._is_new(name):
                _refuse_other_tongue(known, service)
            if known and not self._is_new(name) and merged(known, service).instances != known.instances:
                self._commands.refuse_when_busy(name)

    def preview(self, wanted: Mapping[str, Service], author: Author) -> Applied:
        """What `apply` would change. Of a new service the release is not made."""
        acts = self._acts(wanted, {})
        logged = zip(self._log(acts, author), acts, strict=True)
        return Applied(changes=tuple(traced(change, *self._around(act)) for change, act in logged))

    async def apply(self, wanted: Mapping[str, Service], author: Author) -> Applied:
        """Take the definitions of gapless.yaml. A new service gets its first release, made of its source; a known one
        keeps its releases: code and settings change by `deploy` only, all else at once; one that is not there any more
        loses routes and instances. Raises ReleaseError, StoreFull; then nothing is changed."""
        async with self._commands.making:
            new = [service for name, service in wanted.items() if self._is_new(name)]
            made = {each.name: await self._commands.make(each, Path(each.source), "", {}) for each in new}
            return await persist(lambda: self._write(self._acts(wanted, made), author))

    async def _write(self, acts: list[Act], author: Author) -> Applied:
        if not acts:
            return Applied(revision=self._records.revision)
        changes = self._log(acts, author)
        values = [value for act in acts for value in act.values]
        gone = [value for act in acts for value in act.gone]
        before = {key_of(v): self._records.at(v) for v in (*values, *gone)}
        revision = await self._records.write(*changes, *values, delete=gone)
        for change in changes:
            self._events(ChangeRecorded(change=change))
        after = {key_of(value): value for value in values}
        return Applied(changes=tuple(changes), revision=revision, before=before, after=after)

    async def restore(self, applied: Applied, author: Author) -> None:
        """Put back what `apply` found, where nobody has changed it since; what was new leaves again. Releases stay
        known: they only name what can run."""

        async def write() -> None:
            names = sorted({change.service for change in applied.changes})
            change = self._commands.change(author, f"gapless.yaml taken back: {', '.join(names)}", "")
            now = {key: self._records.under(key) for key in applied.before}
            ours = [key for key, value in now.items() if value == applied.after.get(key)]
            back = [value for key in ours if (value := applied.before[key]) is not None]
            new = [now[key] for key, value in applied.before.items() if value is None]
            await self._commands.commit(change, *back, delete=[each for each in new if isinstance(each, Split)])

        await persist(write)

    def _is_new(self, name: str) -> bool:
        return not (self._records.service(name) and self._records.split(name))

    def _acts(self, wanted: Mapping[str, Service], made: Mapping[str, Release]) -> list[Act]:
        found = [act for service in wanted.values() if (act := self._act(service, made))]
        left = [service for service in self._records.services() if service.name not in wanted]
        return [*found, *(act for service in left if (act := self._leave(service)))]

    def _act(self, service: Service, made: Mapping[str, Release]) -> Act | None:
        name = service.name
        if self._is_new(name):
            return self._enter(service, made.get(name))
        known = self._commands.known(name)
        definition = merged(known, service)
        if definition == known:
            return None
        what = f"definition of {name} changed in gapless.yaml"
        return Act(service=name, what=what, values=(definition, self._commands.sized(definition)))

    def _enter(self, service: Service, release: Release | None) -> Act:
        name = service.name
        if release is None:
            return Act(service=name, what=f"{name} enters", values=(service,))
        weights = ((release.version, BUCKETS),)
        split = Split(service=name, stable=release.version, weights=weights, entered=not self._runs())
        pool = Pool(service=name, sizes={release.version: service.instances})
        return Act(
            service=name, what=f"{name} enters with release {release.version}", values=(service, release, split, pool)
        )

    def _runs(self) -> bool:
        """Whether other services answer, perhaps what will be the new one's."""
        return any(self._records.split(service.name) for service in self._records.services())

    def _leave(self, service: Service) -> Act | None:
        """Nobody is sent there any more. Its instances go once that is obeyed, and its records after them
        (`Commands.forget`): a gateway that refuses the table needs them again."""
        name = service.name
        split = self._records.split(name)
        if split is None:
            return None
        what = f"{name} leaves: it is no longer in gapless.yaml"
        return Act(service=name, what=what, values=tuple(self._commands.cut_short(name, what)), gone=(split,))

    def _log(self, acts: list[Act], author: Author) -> list[Change]:
        first = self._commands.change(author, "", "")
        return [
            replace(first, number=first.number + place, what=act.what, service=act.service)
            for place, act in enumerate(acts)
        ]

    def _around(self, act: Act) -> tuple[dict[str, Any], dict[str, Any], frozenset[str]]:
        """The records before and after, and the keys that go."""
        after = {key_of(value): value for value in act.values}
        gone = frozenset(key_of(value) for value in act.gone)
        known = {key_of(v): self._records.at(v) for v in (*act.values, *act.gone)}
        return {key: value for key, value in known.items() if value is not None}, after, gone


def _refuse_other_tongue(known: Service, service: Service) -> None:
    """Calls of gRPC to instances that answer HTTP, or the other way round, would all fail: the routes change at once,
    and instances only with a release."""
    before, after = known.upstream.protocol, service.upstream.protocol
    if before is not after and Protocol.GRPC in (before, after):
        raise InvalidTransition(
            f"the running instances of {known.name} speak {before}, and gapless.yaml says {after} now",
            "Add a service of another name, lead the routes there, and take this one out; or `gapless down` before.",
        )


def merged(known: Service, service: Service) -> Service:
    """The definition of gapless.yaml with the capacity that `scale` has set, unless the file now asks for another one:
    a control plane that is started again must not take instances away."""
    if not known.declared or service.instances != known.declared:
        return service
    return replace(service, instances=known.instances, declared=known.declared)
