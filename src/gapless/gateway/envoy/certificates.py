"""The gateway's certificates: read at the start, watched from then on, taken live or refused."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from gapless.core.errors import CertificateRefused, GaplessError
from gapless.core.events import CertificatesChanged, Event
from gapless.core.model import Certificate
from gapless.core.ports import World
from gapless.gateway.envoy.secrets import Pair, Stamp, read_pair, stamp

_log = logging.getLogger("gapless.gateway.certificates")

LOOK_EVERY_S = 0.5
"""Four calls of stat(2) for two files. A pair is taken when it was the same at two looks: its files are written one
after the other."""


class Certificates:
    """`pairs` are those in force, in the order of the certificates."""

    def __init__(
        self,
        certificates: Sequence[Certificate],
        world: World,
        changed: Callable[[], Awaitable[None]],
        events: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """`changed` is awaited when a pair is another one."""
        self._certificates = tuple(certificates)
        self._world = world
        self._changed = changed
        self._events = events
        self._taken: list[Stamp] = []
        self._seen: list[Stamp] = []
        self.pairs: list[Pair] = []

    def read(self) -> None:
        """All of them. Raises CertificateRefused."""
        self._seen = [stamp(each) for each in self._certificates]
        self._taken = list(self._seen)
        self.pairs = [read_pair(each, self._world.time()) for each in self._certificates]

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self._world.sleep(LOOK_EVERY_S)
            if self.look():
                await self._tell()

    def look(self) -> bool:
        """Whether a pair in force is another one than before."""
        before, self._seen = self._seen, [stamp(each) for each in self._certificates]
        fresh = [
            number for number, now in enumerate(self._seen) if now == before[number] and now != self._taken[number]
        ]
        taken = [self._take(number) for number in fresh]
        return any(taken)

    def _take(self, number: int) -> bool:
        certificate, self._taken[number] = self._certificates[number], self._seen[number]
        try:
            pair = read_pair(certificate, self._world.time())
        except CertificateRefused as error:
            self._say(f"the new certificate is refused, the old one serves on: {error.what}", ok=False)
            return False
        if pair == self.pairs[number]:
            return False
        self.pairs[number] = pair
        return True

    async def _tell(self) -> None:
        try:
            await self._changed()
        except GaplessError as error:
            self._say(f"the new certificate is not in force yet: {error.what}", ok=False)
        else:
            self._say("new connections get the new certificate", ok=True)

    def _say(self, text: str, *, ok: bool) -> None:
        (_log.info if ok else _log.error)("%s", text)
        self._events(CertificatesChanged(text=text, ok=ok))
