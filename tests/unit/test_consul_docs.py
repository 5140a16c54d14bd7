"""The page on the registry names each endpoint that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from gapless.api.consul import pattern, txn, watches
from gapless.api.consul.app import BODY_BYTES
from gapless.api.consul.filter.parse import DEEPEST
from gapless.api.consul.filter.tokens import LONGEST
from gapless.discovery.events import KEPT
from gapless.server import descriptors
from tests.unit.consul_kit import registry

PAGE = Path(__file__).parents[2] / "docs" / "registry.md"


async def test_the_page_names_every_endpoint_and_no_other() -> None:
    named = {re.sub(r"[A-Z]+$", "", path) for path in re.findall(r"`(/v1/[A-Za-z0-9/_-]*)`", PAGE.read_text())}
    async with registry() as (client, _):
        router = client.app._router  # type: ignore[attr-defined]
        there = {*router._exact, *router._prefixes} - {"/"}
    assert named == there


def test_the_page_tells_the_limits_that_there_are() -> None:
    page = PAGE.read_text()
    for told in (
        f"a body of {BODY_BYTES // 1024} KiB, {txn.LARGEST} operations",
        f"{watches.PER_CLIENT:,} blocking queries of one address, {watches.IN_ALL:,} in all",
        f"as descriptors allow ({descriptors.MOST:,} at most), three quarters of them",
        f"{LONGEST:,} characters and {DEEPEST} levels in a filter, {pattern.LONGEST:,} characters in a regular",
        f"the newest {KEPT}, in memory",
    ):
        assert told in page, told
