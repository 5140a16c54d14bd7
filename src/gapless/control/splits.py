"""`gapless split`: the shares of a service's releases by hand, where two of them are there. `rollout.by_hand` decides
what may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gapless.control.commands import Author, Commands
from gapless.control.records import Records, persist
from gapless.control.rollouts import RolloutCommands
from gapless.core.errors import InvalidTransition
from gapless.core.model import BUCKETS, Change, Phase, Pool, Rollout, Split
from gapless.rollout.by_hand import divided, refuse_without_room, steered, told, weights_of
from gapless.rollout.wanted import step_split, weight_of


class SplitCommands:
    """Acts on the records; the loops do the rest."""

    def __init__(self, records: Records, commands: Commands, rollouts: RolloutCommands) -> None:
        self._records = records
        self._commands = commands
        self._rollouts = rollouts

    def shown(self, name: str) -> Split:
        """What is wanted now. Raises UnknownName."""
        self._commands.known(name)
        active = self._commands.active(name)
        steered_now = active is not None and active.by_hand >= 0
        return step_split(active, weight_of(active)) if active and steered_now else self._commands.split(name)

    async def divide(self, name: str, shares: Sequence[tuple[str, float]], author: Author) -> Split:
        """Give each release its share (percent) of the users. Raises UnknownName, ConfigError, InvalidTransition,
        Busy; then nothing is changed."""
        self._commands.known(name)
        weights = weights_of(shares)

        async def write() -> None:
            active = self._commands.moving(name)
            if active:
                await self._steer(active, weights, author)
            else:
                await self._rest(name, weights, author)

        await persist(write)
        return self.shown(name)

    async def _steer(self, rollout: Rollout, weights: Mapping[str, int], author: Author) -> None:
        after = steered(rollout, weights)
        self._refuse_without_room(rollout.service, weights)
        if weight_of(after) > weight_of(rollout):
            self._rollouts.refuse_when_closed([rollout.service], rollout.override)
        if after != rollout:
            await self._commands.commit(self._change(rollout.service, weights, author), after)

    async def _rest(self, name: str, weights: Mapping[str, int], author: Author) -> None:
        self._commands.refuse_when_busy(name)
        split = self._commands.split(name)
        after = divided(split, self._records.rollout(name), weights)
        pool = self.pool_for(after)
        if after != split:
            await self._commands.commit(self._change(name, weights, author), after, pool)

    def _change(self, name: str, weights: Mapping[str, int], author: Author) -> Change:
        return self._commands.change(author, f"split {name}: {told(weights)}", name)

    async def put_back(self, rollout: Rollout, by_hand: int, author: Author, what: str) -> None:
        """A paused rollout's share before: that of its step (-1), or another one by hand. Raises InvalidTransition."""
        if by_hand >= 0:
            weights = {rollout.after: by_hand, rollout.before: BUCKETS - by_hand}
            after = steered(rollout, weights)
            self._refuse_without_room(rollout.service, weights)
        else:
            after = replace(rollout, by_hand=-1, applied_at=0.0)
        await self._commands.commit(self._commands.change(author, what, rollout.service), after)

    def pool_for(self, split: Split) -> Pool:
        """The pool that a split at rest counts on: to be written beside it, so that nobody takes instances away
        meanwhile. Raises InvalidTransition, Busy."""
        self._commands.refuse_when_busy(split.service)
        self._refuse_without_room(split.service, dict(split.weights))
        pool = self._records.pool(split.service)
        if pool is None:
            raise InvalidTransition(f"{split.service} has no instances yet", "Try again in a moment.")
        return pool

    def _refuse_without_room(self, name: str, weights: Mapping[str, int]) -> None:
        """Of the instances that are here to stay."""
        pool = self._records.pool(name)
        staying = {release for release, size in (pool.sizes if pool else {}).items() if size}
        found = (i.release for i in self._records.instances(name) if i.phase is Phase.READY)
        ready = Counter(release for release in found if release in staying)
        refuse_without_room(name, weights, self._commands.known(name).instances, ready)
