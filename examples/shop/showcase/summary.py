"""The summary at the end, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gapless.load import Record
from showcase.ledger import Audit
from showcase.timeline import Event, before, during, latency
from showcase.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of the bad release. `errors_to` is how many users the analysis itself saw getting an error."""

    seconds: float
    reason: str
    errors_to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the summary tells."""

    records: Sequence[Record]
    events: Sequence[Event]
    verdict: Verdict
    audit: Audit | None
    decision: Decision | None
    surprises: Sequence[str]
    """What did not go as it should have."""

    @property
    def good(self) -> bool:
        """Nothing was lost that a healthy release could have answered, the books agree, all went as it should."""
        books = self.audit is not None and not self.audit.wrong
        return not self.verdict.lost_total and books and not self.surprises


def tell(story: Story, console: Console) -> None:
    """Print it."""
    console.print()
    console.print(_events(story))
    for line in (*_customers(story.verdict), *_decision(story), *_ledger(story.audit)):
        console.print(line, highlight=False, soft_wrap=True)
    for surprise in story.surprises:
        console.print(Text(f"not as it should be: {surprise}", style="red"), soft_wrap=True)
    last = Text("nothing was lost", style="bold green") if story.good else Text("FAILED", style="bold red")
    console.print(last)


def _events(story: Story) -> Table:
    table = Table(title="what was done, and what customers felt", title_justify="left", box=None, pad_edge=False)
    table.add_column("event", no_wrap=True)
    for name in ("took", "purchases", "lost", "p50 before → during", "p99 before → during"):
        table.add_column(name, justify="right")
    for event in story.events:
        table.add_row(*_row(story, event))
    return table


def _row(story: Story, event: Event) -> list[str]:
    met = during(event, story.records, story.events)
    then, now = latency(before(event, story.records)), latency(met)
    lost = story.verdict.lost.get(event.name, {})
    return [
        event.name,
        f"{event.ended_at - event.began_at:.1f} s",
        str(len(met)),
        ", ".join(f"{count} {cause}" for cause, count in lost.items()) or "0",
        f"{_ms(then.p50_s)} → {_ms(now.p50_s)}",
        f"{_ms(then.p99_s)} → {_ms(now.p99_s)}",
    ]


def _customers(verdict: Verdict) -> list[Text]:
    lines = [
        Text(
            f"\npurchases   {verdict.requests}: {verdict.answered} answered, {verdict.met_bad} met the "
            f"bad release's errors, {verdict.lost_total} lost"
        )
    ]
    for event, causes in verdict.lost.items():
        lines += [Text(f"            lost {count} x {cause} ({event})", style="red") for cause, count in causes.items()]
    for record in verdict.examples:
        said = f"status {record.status}, release {record.release or 'unknown'}, {record.detail}"
        lines.append(Text(f"            e.g. number {record.n}, {record.latency_s:.3f} s: {record.cause}, {said}"))
    return lines


def _decision(story: Story) -> list[Text]:
    if story.decision is None:
        return []
    met, failed = story.verdict.users_of_bad, story.verdict.users_met_bad
    users = f"{met} customers met it, {failed} got an error"
    return [Text(f"bad release {story.decision.seconds:.1f} s to the decision, {users}: {story.decision.reason}")]


def _ledger(audit: Audit | None) -> list[Text]:
    if audit is None:
        return [Text("ledger      could not be read", style="red")]
    again = f"; tried again after a kill: {audit.tried_again}" if audit.tried_again else ""
    money = f"{audit.amount / 100:,.2f} EUR"
    lines = [Text(f"ledger      {audit.confirmed} orders confirmed, {audit.paid} payments, {money}{again}")]
    if audit.wrong:
        return lines + [Text(f"            WRONG: {line}", style="red") for line in audit.wrong]
    return [*lines, Text("            each order is paid once, and the stock is consistent")]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds else "-"
