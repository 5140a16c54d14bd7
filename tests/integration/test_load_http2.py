"""The load client over HTTP/2 and on fresh connections, against a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gapless.core.world import RealWorld
from gapless.load import Load, LoadSpec, Record, Summary
from gapless.load.spec import Expect
from tests.integration.serve_kit import served


async def load(port: int, path: str, **options: Any) -> tuple[Summary, list[Record]]:
    records: list[Record] = []
    spec = LoadSpec(
        url=f"http://127.0.0.1:{port}{path}",
        **{"rate": 100.0, "connections": 4, "for_s": 1.0, "timeout_s": 20.0, **options},
    )
    return await Load(spec, RealWorld(), records.append).run(), records


@pytest.mark.parametrize("options", [{"http2": True}, {"fresh": True}, {"http2": True, "fresh": True}], ids=str)
async def test_bodies_go_there_and_back(tmp_path: Path, options: dict[str, bool]) -> None:
    with served(tmp_path) as server:
        expect = Expect.parse("200", "^number [0-9]+ of ann$")
        summary, _ = await load(server.port, "/echo", method="POST", body="number {n} of ann", expect=expect, **options)
    assert summary.answered == 100
    assert summary.lost_total == 0
    if options.get("fresh"):
        assert summary.reconnects >= 90


async def test_a_reload_loses_no_stream(tmp_path: Path) -> None:
    with served(tmp_path, "--workers", "2") as server:
        asked = asyncio.ensure_future(load(server.port, "/", http2=True, for_s=4.0))
        await asyncio.sleep(0.5)
        assert (await asyncio.to_thread(server.reload))[0] == 200
        summary, records = await asked
    assert [record.detail for record in records if record.cause] == []
    assert summary.answered == 400


async def test_what_is_no_http2_is_told(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        summary, records = await load(other.sockets[0].getsockname()[1], "/", http2=True, rate=10.0)
    assert summary.answered == 0
    assert {record.cause for record in records} <= {"wrong answer", "reset"}
