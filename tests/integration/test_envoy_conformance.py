"""Envoy passes what every data plane passes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gapless.testing.traffic import TRAFFIC_CHECKS, TrafficCheck, run_check
from tests.integration.envoy_kit import Rig, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest.mark.parametrize("check", TRAFFIC_CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: TrafficCheck, rig: Rig) -> None:
    try:
        await run_check(check, rig)
    finally:
        await rig.clear()
