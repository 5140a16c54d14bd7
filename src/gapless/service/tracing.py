"""The trace of each request: taken over from its caller or begun, decided first, recorded only when that is wanted.

A request that is not recorded costs a look at one header and two numbers. Slow and failed ones are kept all the same:
that is known when they end, and then only their own part is left to tell.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from gapless.core.errors import ConfigError
from gapless.core.tracing import TracePolicy
from gapless.observe.trace.context import Ids, Trace, parse
from gapless.observe.trace.recorder import Open, PlainRecorder, Recorder, Who
from gapless.observe.trace.settings import from_env
from gapless.observe.trace.spans import Kept, Span, Value

if TYPE_CHECKING:
    from gapless.core.ports import World
    from gapless.service.identity import Identity

CLOSE_S = 1.0
"""What the end of a process may wait for a collector of spans."""


class Tracing:
    """One for each process that serves."""

    def __init__(self, policy: TracePolicy, world: World, who: Who) -> None:
        self.policy = policy
        self.kept = Kept()
        self._world = world
        self._who = who
        self._ids = Ids(world.bits)
        self._below = round(policy.sample * 2**64)
        self._recorder: Recorder | None = None

    def start(self) -> None:
        """Load what the policy asks for. Raises ConfigError."""
        _ = self.recorder

    @property
    def recorder(self) -> Recorder:
        """Made when it is first needed: few processes need the SDK."""
        if self._recorder is None:
            self._recorder = self._sdk() if self.policy.needs_sdk else self._plain()
        return self._recorder

    def _plain(self) -> Recorder:
        return PlainRecorder(self.kept, self._who, self._ids, self._world.now, self._world.time)

    def _sdk(self) -> Recorder:
        try:
            from gapless.observe.trace.sdk import SdkRecorder
        except ImportError as error:
            raise ConfigError(f"tracing needs what is not installed: {error}", "pip install 'gapless[otel]'") from error
        return SdkRecorder(self.policy, self.kept, self._who, self._ids)

    def begin(self, header: bytes | None) -> tuple[Trace, str]:
        """The trace of a request that comes with this `traceparent`, and the id of its caller's span ("" without one).
        When it is recorded, the trace's span is the request's own, otherwise the caller's: nobody shall look for a
        parent that was never recorded."""
        caller = parse(header) if header else None
        if caller is None:
            return self._ids.first(self._below), ""
        if caller.sampled:
            return Trace(caller.trace_id, self._ids.span_id(), sampled=True), caller.span_id
        return caller, caller.span_id

    def open(self, name: str, trace: Trace, parent_id: str) -> Open:
        """The span of a request that is recorded."""
        return self.recorder.server(name, trace, parent_id)

    def late(
        self, name: str, trace: Trace, parent_id: str, *, took_s: float, failed: bool, attributes: dict[str, Value]
    ) -> None:
        """A request has ended that nobody recorded, and should have."""
        span_id = self._ids.span_id() if parent_id else trace.span_id
        began_at = self._world.time() - took_s
        who = self._who
        self.kept.add(
            Span(
                trace.trace_id, span_id, parent_id, name, "server", who.service, who.instance, who.release,
                began_at=began_at, took_s=took_s, failed=failed, late=True, attributes=attributes,
            )
        )  # fmt: skip

    async def end(self) -> None:
        """Send what waits to be sent; takes `CLOSE_S` at most, whatever the collector does."""
        work = self._recorder.close(CLOSE_S) if self._recorder else None
        if work:
            await asyncio.to_thread(work)


def tracing_of(identity: Identity, world: World) -> Tracing:
    """As this process was told. Raises ConfigError."""
    who = Who(identity.service, identity.release, identity.instance)
    return Tracing(from_env(os.environ), world, who)
