"""The honest load client: open loop at a fixed rate, latency from the due time, nothing retried, each loss named.

`Load(spec, world)` runs a `LoadSpec` and ends with a `Summary`; whoever wants every request passes `watch`.
"""

from __future__ import annotations

from gapless.load.cause import Answer, Cause, Loss
from gapless.load.run import Load
from gapless.load.spec import Expect, LoadSpec
from gapless.load.summary import Record, ReleaseSummary, Summary, Tally

__all__ = ["Answer", "Cause", "Expect", "Load", "LoadSpec", "Loss", "Record", "ReleaseSummary", "Summary", "Tally"]
