"""The store in memory: for tests, and for systems that need not remember."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gapless.core.errors import Compacted
from gapless.core.ports import Update, World
from gapless.store._engine import RETENTION, Engine, Retention
from gapless.store._keys import Commit, Keys
from gapless.store._watch import Group, Log


class MemoryStore(Engine):
    """`core.ports.Store` without a file. Ready when constructed."""

    def __init__(self, world: World, retention: Retention = RETENTION) -> None:
        memory = _Memory(retention)
        super().__init__(world, memory, Log(memory, retention.revisions))
        self._begin(Keys())


class _Memory:
    """Keeps the writes for `history`; what a watch may read is all in the log."""

    def __init__(self, retention: Retention) -> None:
        self._rows: deque[Update] = deque(maxlen=retention.rows)

    async def commit(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self._rows.extend(commit.updates)

    async def read(self, prefix: str, after: int, until: int, limit: int) -> list[Group]:
        raise Compacted(f"revision {after} is too long ago to watch {prefix!r} from")

    async def history(self, key: str, until: int, limit: int) -> list[Update]:
        found = (update for update in reversed(self._rows) if update.key == key)
        return [update for update, _ in zip(found, range(limit), strict=False)]

    async def close(self) -> None:
        self._rows.clear()
