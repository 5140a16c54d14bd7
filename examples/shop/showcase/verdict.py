"""Which requests count as lost: all without a good answer, except what a deliberately bad release spoilt. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gapless.load import Cause, Record
from showcase.timeline import Event, attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`lost[event][cause]` counts requests that a healthy release could have answered."""

    requests: int
    answered: int
    met_bad: int
    """Requests that a bad release itself answered with 5xx: it is what those are for."""
    users_met_bad: int
    """Customers who got such an error."""
    users_of_bad: int
    """Customers whom a bad release answered at all."""
    lost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    examples: tuple[Record, ...] = ()
    """A few of the lost ones, to show."""

    @property
    def lost_total(self) -> int:
        return sum(sum(causes.values()) for causes in self.lost.values())


def met_bad(record: Record, bad: Collection[str]) -> bool:
    """A deliberately bad release answered this one, and badly. Without its name in the answer it was not its fault."""
    return record.cause == Cause.SERVER_ERROR and record.release in bad


def is_lost(record: Record, bad: Collection[str]) -> bool:
    return bool(record.cause) and not met_bad(record, bad)


def judge(records: Sequence[Record], events: Sequence[Event], bad: Collection[str]) -> Verdict:
    """The customers' side of the story. `answered` + `met_bad` + `lost_total` = `requests`."""
    spoilt = [record for record in records if met_bad(record, bad)]
    lost = [record for record in records if is_lost(record, bad)]
    return Verdict(
        requests=len(records),
        answered=len(records) - len(spoilt) - len(lost),
        met_bad=len(spoilt),
        users_met_bad=len({record.user for record in spoilt}),
        users_of_bad=len({record.user for record in records if record.release in bad}),
        lost=_by_event(lost, events),
        examples=tuple(lost[:5]),
    )


def _by_event(lost: Iterable[Record], events: Sequence[Event]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for record in lost:
        counts.setdefault(attribute(record, events), Counter())[record.cause] += 1
    return {event: dict(sorted(causes.items())) for event, causes in counts.items()}
