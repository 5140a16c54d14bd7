"""Delivers notices: each channel has a task of its own, which is told of one thing at a time and remembers in the store
how far it is. A channel that fails, hangs or swallows everything delays nobody but itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gapless.config.callbacks import limited
from gapless.config.secret_references import PREFIX, Secrets, misfit
from gapless.config.vault import HttpVault
from gapless.control.loop import Jobs
from gapless.control.records import Records, persist
from gapless.core.errors import GaplessError, UnknownName
from gapless.core.model import Change
from gapless.core.model.notice import Channel, ChannelState, Notice, NotifyPolicy, Topic
from gapless.core.ports import World
from gapless.observe import notice_queue
from gapless.observe.notice_queue import Attempt, Batch
from gapless.observe.notice_words import Told

_log = logging.getLogger("gapless.notify")

Sender = Callable[[Channel, Batch, Mapping[str, str], World], Awaitable[Attempt]]

LOOK_BACK = 2_000
"""Entries of the change log that a channel can be behind; what is older was too old to tell long before."""
NOTICES_KEPT = 500
STATES_WRITTEN_S = 30.0
"""A cursor that only passed over what nobody asked for is written so often."""


def kind_of(channel: Channel) -> str:
    """The key of gapless.yaml that says how it is reached."""
    kinds = {"webhook": channel.webhook, "slack": channel.slack, "email": channel.mail_to, "command": channel.command}
    return next(kind for kind, value in kinds.items() if value)


class Notifier:
    """`step` is one look: every channel that has something to send is set to work."""

    def __init__(
        self,
        policy: NotifyPolicy,
        system: str,
        base: Path,
        records: Records,
        world: World,
        done: Callable[[], None],
        senders: Mapping[str, Sender] | None = None,
    ) -> None:
        """`base`: where commands run. `done` is called whenever an attempt has ended. `senders`: by `kind_of`; None:
        the real ones."""
        self.policy = policy
        self._system = system
        self._base = base
        self._records = records
        self._world = world
        self._senders = senders
        self._secrets = Secrets(os.environ, HttpVault(os.environ), world)
        self._passed: dict[str, tuple[ChannelState, float]] = {}
        """Cursors that are ahead of what is written, and since when: what was passed over is passed over again after a
        restart."""
        self.jobs = Jobs(done)

    async def step(self) -> None:
        for channel in self.policy.channels:
            if channel.name not in self.jobs:
                await self._look(channel)
        await self._forget()

    async def _look(self, channel: Channel) -> None:
        state, now_at = self._state(channel), self._world.time()
        if state is None:
            newest = self._records.next_number
            first = notice_queue.first_state(channel.name, newest(Change) - 1, newest(Notice) - 1)
            await self._records.keep(first)
            return
        if notice_queue.waits(state, now_at):
            return
        batch = notice_queue.next_batch(self.policy, channel, self._rows(state), now_at)
        if batch is None:
            return
        if batch.told:
            self.jobs.start(channel.name, lambda: self._deliver(channel, batch))
        else:
            await self._pass(channel, batch, now_at)

    def _rows(self, state: ChannelState) -> list[tuple[Told, int, int]]:
        newest = self._records.next_number
        if state.change >= newest(Change) - 1 and state.notice >= newest(Notice) - 1:
            return []
        changes, notices = self._records.changes(LOOK_BACK), self._records.all_of(Notice)
        return notice_queue.upcoming(state, changes, notices, self._system)

    async def _pass(self, channel: Channel, batch: Batch, now_at: float) -> None:
        state, since_at = self._passed.get(channel.name) or (self._stored(channel), now_at)
        assert state is not None
        moved = replace(state, change=batch.change, notice=batch.notice)
        self._passed[channel.name] = (moved, since_at)
        if not 0 <= now_at - since_at < STATES_WRITTEN_S:
            await self._write(channel, moved)

    async def _deliver(self, channel: Channel, batch: Batch) -> None:
        if notice_queue.overdue(channel, batch, self._world.time()):
            attempt = Attempt(ok=False, final=True, error=f"older than {channel.deadline_s:g} s when its turn came")
        else:
            attempt = await self.send(channel, batch)
        if not attempt.ok:
            _log.warning("channel %s was not told %r: %s", channel.name, batch.message.title, attempt.error)
        state = self._state(channel) or notice_queue.first_state(channel.name, batch.change, batch.notice)
        now_at = self._world.time()
        await self._write(channel, notice_queue.after(state, channel, batch, attempt, now_at, self._world.random))

    async def _write(self, channel: Channel, state: ChannelState) -> None:
        async def write() -> None:
            await self._records.keep(state)

        await persist(write)
        self._passed.pop(channel.name, None)

    async def send(self, channel: Channel, batch: Batch) -> Attempt:
        """One attempt. It ends within the channel's limit, whatever the other side does."""
        sender = (self._senders or _senders())[kind_of(channel)]
        try:
            secrets = await self._resolved(channel)
            sent: Attempt = await limited(sender(channel, batch, secrets, self._world), channel.timeout_s, self._world)
            return sent
        except TimeoutError:
            return Attempt(ok=False, error=f"no answer within {channel.timeout_s:g} s")
        except GaplessError as error:
            return Attempt(ok=False, error=error.what)
        except OSError as error:
            return Attempt(ok=False, error=f"{type(error).__name__}: {error}")

    async def _resolved(self, channel: Channel) -> dict[str, str]:
        """The channel's texts, references replaced by what they refer to. Raises ConfigError."""
        texts = {name: getattr(channel, name) for name in ("webhook", "slack", "secret", "password")}
        texts |= {f"headers.{name}": value for name, value in channel.headers.items()}
        found = {name: await self._read(text) for name, text in texts.items()}
        return found | {"base": str(self._base)}

    async def _read(self, text: str) -> str:
        return await self._secrets.read(text) if text.startswith(PREFIX) and not misfit(text) else text

    def _state(self, channel: Channel) -> ChannelState | None:
        passed = self._passed.get(channel.name)
        return passed[0] if passed else self._stored(channel)

    def _stored(self, channel: Channel) -> ChannelState | None:
        return next((each for each in self._records.all_of(ChannelState) if each.name == channel.name), None)

    async def _forget(self) -> None:
        """Notices that nobody will be told any more, and channels that are no longer in gapless.yaml."""
        notices = self._records.all_of(Notice)
        names = {channel.name for channel in self.policy.channels}
        gone = [state for state in self._records.all_of(ChannelState) if state.name not in names]
        if len(notices) > NOTICES_KEPT + NOTICES_KEPT // 10 or gone:
            await self._records.keep(delete=[*notices[:-NOTICES_KEPT], *gone])

    # For people.

    def status(self) -> list[dict[str, Any]]:
        """Each channel: how far it is, what waits, and what could not be delivered."""
        return [self._status(channel) for channel in self.policy.channels]

    def _status(self, channel: Channel) -> dict[str, Any]:
        state = self._state(channel) or ChannelState(name=channel.name)
        rows = self._rows(state) if self._stored(channel) else []
        waiting = [told for told, _, _ in rows if notice_queue.wanted(self.policy, channel.name, told)]
        return {
            "channel": channel.name,
            "kind": kind_of(channel),
            "delivered": state.delivered,
            "delivered_at": state.delivered_at,
            "waiting": len(waiting),
            "attempts": state.attempts,
            "next_at": state.next_at,
            "error": state.error,
            "died": state.died,
            "dead": [{"id": d.id, "title": d.title, "at": d.at, "error": d.error} for d in state.dead],
        }

    async def test(self, name: str, who: str) -> Attempt:
        """Send a notice that says that it is a test, now and once. Raises UnknownName."""
        channel = next((each for each in self.policy.channels if each.name == name), None)
        if channel is None:
            names = ", ".join(each.name for each in self.policy.channels) or "none"
            raise UnknownName(f"there is no channel {name!r}", f"The channels of gapless.yaml are: {names}.")
        now_at = self._world.time()
        told = Told(
            id=f"{self._system}-test-{self._world.token()}",
            topic=Topic.CHANGES,
            at=now_at,
            title="this is a test",
            text="Nothing has happened.",
            system=self._system,
            who=who,
        )
        return await self.send(channel, Batch(told=(told,), change=0, notice=0))


def _senders() -> Mapping[str, Sender]:
    from gapless.control.notify.send_command import send_command
    from gapless.control.notify.send_http import send_slack, send_webhook
    from gapless.control.notify.send_mail import send_mail

    return {"webhook": send_webhook, "slack": send_slack, "email": send_mail, "command": send_command}
