"""What this caller sees of instances, told to the registry once a second: its part in health by witnesses
(`discovery.eyes`).

Each instance has one word per report. That it refuses or resets holds at once; slow and failing answers only when they
are most of what it gave: one slow answer is the request's own fault. What cannot be told is dropped, never queued:
evidence that is old misleads.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from gapless.core.errors import GaplessError
from gapless.core.model import Address, Endpoint
from gapless.core.ports import World
from gapless.discovery.eyes import Sight
from gapless.discovery.load import Outcome

EVERY_S = 1.0
"""Between two reports; half of it is jitter, so that callers do not all report at once."""
LONGEST_S = 60.0
"""A registry that does not take reports (Consul's own does not) is asked no more often than that."""
MOST = 1000
"""Instances in one report: more are left out, and told of another time."""
SLOW_TIMES = 10.0
SLOW_LEAST_S = 0.1
"""An answer is slow when it took so many times as long as the service's answers usually do to this caller, and so long
at all."""
MEMORY = 0.05
"""The weight of an answer in what is usual, and `CLAMP` the most that counts of it: a few that hang do not become the
usual."""
CLAMP = 4.0
PATH = "/v1/agent/gapless/sights"

_log = logging.getLogger("gapless.discovery")


class Told(
    msgspec.Struct, frozen=True, rename={"service": "Service", "id": "ID", "address": "Address", "sight": "Sight"}
):
    """What an observer saw last of one instance. `address` is `host:port`: ids are unique on a node only."""

    service: str
    id: str
    address: str
    sight: Sight


class Report(msgspec.Struct, frozen=True, rename={"observer": "Observer", "sights": "Sights"}):
    """The body of `PUT /v1/agent/gapless/sights`. Observers are machines: processes of one share its network, and
    shall not be a quorum among themselves."""

    observer: str
    sights: tuple[Told, ...]


class Pace:
    """How long a service's answers usually take here."""

    def __init__(self) -> None:
        self.usual_s = 0.0

    def slow(self, took_s: float) -> bool:
        """Is this answer slow beside those before? It is one of them from now on."""
        usual_s = self.usual_s
        if not usual_s:
            self.usual_s = took_s
            return False
        self.usual_s += MEMORY * (min(took_s, CLAMP * usual_s) - usual_s)
        return took_s > SLOW_LEAST_S and took_s > SLOW_TIMES * usual_s


_SIGHTS = {
    Outcome.ANSWERED: Sight.WELL,
    Outcome.FAILED: Sight.FAILED,
    Outcome.LATE: Sight.SLOW,
    Outcome.RESET: Sight.RESET,
    Outcome.REFUSED: Sight.REFUSED,
}


def sight_of(outcome: Outcome, slow: bool) -> Sight | None:
    """None for what says nothing about the instance."""
    return Sight.SLOW if slow and outcome is Outcome.ANSWERED else _SIGHTS.get(outcome)


@dataclass(slots=True)
class Tally:
    """What was seen of one instance: how often, and what last."""

    instance: str
    counts: dict[Sight, int] = field(default_factory=dict)
    last: Sight = Sight.WELL

    def add(self, sight: Sight) -> None:
        self.counts[sight] = self.counts.get(sight, 0) + 1
        self.last = sight


class Sights:
    """What was seen since the last report. Costs two look-ups per request, and memory per instance only."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Address], Tally] = {}

    def saw(self, service: str, endpoint: Endpoint, sight: Sight) -> None:
        """One request's worth of evidence."""
        key = service, endpoint.address
        tally = self._seen.get(key)
        if tally is None:
            if len(self._seen) >= MOST:
                return
            tally = self._seen[key] = Tally(endpoint.instance)
        tally.add(sight)

    def take(self) -> tuple[Told, ...]:
        """Everything, which is then forgotten."""
        taken, self._seen = self._seen, {}
        return tuple(
            Told(service=service, id=tally.instance, address=str(address), sight=word(tally))
            for (service, address), tally in taken.items()
        )


def word(tally: Tally) -> Sight:
    """The one word for what was seen of an instance."""
    if tally.last in (Sight.REFUSED, Sight.RESET):
        return tally.last
    complaints = {sight: count for sight, count in tally.counts.items() if sight is not Sight.WELL}
    if sum(complaints.values()) * 2 <= sum(tally.counts.values()):
        return Sight.WELL
    return max(complaints, key=complaints.__getitem__)


async def report_always(
    sights: Sights, observer: str, report: Callable[[Report], Awaitable[None]], world: World
) -> None:
    """Tell what was seen, once a second, for ever. `report` raises GaplessError or OSError where nobody hears: then
    that is dropped, and the next try is made after a while."""
    failures = 0
    while True:
        await world.sleep(EVERY_S * (0.75 + world.random() / 2))
        told = sights.take()
        if not told:
            continue
        try:
            await report(Report(observer=observer, sights=told))
            failures = 0
        except (GaplessError, OSError) as error:
            failures += 1
            _log.debug("nobody hears what was seen of instances: %s", error)
            await world.sleep(min(EVERY_S * 2.0 ** min(failures, 10), LONGEST_S))
            sights.take()
