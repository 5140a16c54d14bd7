"""The metrics of all instances at an address of their own, for a Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapless.control.plane import ControlPlane


@asynccontextmanager
async def system_metrics(plane: ControlPlane) -> AsyncIterator[None]:
    """Serve `metrics.listen` until the block ends, if the file asks for it. Metrics tell nothing that is secret, but
    nobody beyond this machine gets them unless the address says so. Raises ConfigError, PortTaken."""
    listen = plane.system.metrics.listen
    if listen is None:
        yield
        return
    from gapless.api.rest_metrics import metrics_app
    from gapless.server.embedded import serving

    async with serving(metrics_app(plane.watching.scraper), [str(listen)]):
        yield
