"""What the reader sees: a log that scrolls and, on a terminal, a live panel below it; plain lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Collection

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gapless.load import Record
from showcase.timeline import latency
from showcase.verdict import is_lost, met_bad

RECENT_S = 5.0
"""The panel's figures are of so many last seconds."""
LOOK_S = 0.25
SHOWN_LOST = 20
LINE_S = 5.0
"""Between two lines of figures where there is no terminal."""


class View:
    """Tells the story. `bad` names the releases whose 5xx are no loss."""

    def __init__(self, console: Console, bad: Collection[str]) -> None:
        self.console = console
        self.totals: Counter[str] = Counter()
        self.rollout = ""
        self._bad = bad
        self._recent: deque[Record] = deque()
        self._event = ""
        self._began = time.monotonic()
        self._live: Live | None = None

    def event(self, title: str) -> None:
        """The next thing begins."""
        self._event = title
        self.rollout = ""
        self._print(Text(f"\n{title}", style="bold"))

    def say(self, text: str) -> None:
        """A line of the log."""
        stamp = Text(f"{time.monotonic() - self._began:6.1f} s  ", style="dim")
        for line in text.splitlines():
            self._print(stamp + Text(line))

    def move(self, text: str) -> None:
        """What a rollout is doing now: for the panel, because the control plane's own words are in the log."""
        self.rollout = text

    def record(self, record: Record) -> None:
        """A purchase has ended."""
        self._recent.append(record)
        self.totals["requests"] += 1
        if is_lost(record, self._bad):
            self.totals["lost"] += 1
            self._say_lost(record)
        self.totals["met bad"] += met_bad(record, self._bad)

    def _say_lost(self, record: Record) -> None:
        if self.totals["lost"] <= SHOWN_LOST:
            self.say(f"LOST: {record.cause}, {record.detail} (release {record.release or 'unknown'})")
        if self.totals["lost"] == SHOWN_LOST:
            self.say("further losses are counted, but not shown")

    async def run(self) -> None:
        """Keep the picture fresh until cancelled."""
        if self.console.is_terminal:
            await self._draw()
        while True:
            await asyncio.sleep(LINE_S)
            if self.totals["requests"]:
                self.say(self.figures())

    async def _draw(self) -> None:
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            self._live = live
            try:
                while True:
                    live.update(self.panel(), refresh=True)
                    await asyncio.sleep(LOOK_S)
            finally:
                self._live = None

    def panel(self) -> RenderableType:
        """The live panel."""
        rows = Table.grid(padding=(0, 2))
        rows.add_row(Text("rollout", style="dim"), Text(self.rollout or "none"))
        rows.add_row(Text("releases", style="dim"), Text(self._shares() or "none has answered yet"))
        rows.add_row(Text("customers", style="dim"), Text(self._counts()))
        rows.add_row(Text("latency", style="dim"), Text(self._latency()))
        took = f"{time.monotonic() - self._began:.0f} s"
        return Panel(Group(rows), title=self._event or "starting", title_align="left", subtitle=took, expand=True)

    def figures(self) -> str:
        """One line about the customers."""
        return f"{self._counts()}, {self._latency()}"

    def _counts(self) -> str:
        bad = f", {self.totals['met bad']} met a bad release" if self.totals["met bad"] else ""
        rate = len(self._fresh()) / RECENT_S
        return f"{rate:.0f}/s, {self.totals['requests']} purchases, {self.totals['lost']} lost{bad}"

    def _latency(self) -> str:
        found = latency(self._fresh())
        return f"p50 {found.p50_s * 1000:.0f} ms, p99 {found.p99_s * 1000:.0f} ms"

    def _shares(self) -> str:
        counts = Counter(record.release for record in self._fresh() if record.release)
        total = counts.total()
        return "   ".join(f"{release} {count / total:.0%}" for release, count in sorted(counts.items()))

    def _fresh(self) -> list[Record]:
        """The records of the last seconds; older ones are let go."""
        since = time.time() - RECENT_S
        while self._recent and self._recent[0].due_at < since:
            self._recent.popleft()
        return list(self._recent)

    def _print(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True, highlight=False)
