"""Answers of an admin socket."""

import asyncio

import pytest

from gapless.fleet.admin import Answer, parse_head, post


def test_heads():
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: a: b\r\n\r\n") == (
        200,
        {"content-length": "3", "x": "a: b"},
    )
    assert parse_head(b"HTTP/1.0 422\r\n\r\n") == (422, {})
    for wrong in (b"nonsense\r\n\r\n", b"HTTP/1.1 x y\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"\r\n\r\n"):
        with pytest.raises(ValueError, match=r"HTTP|unpack|literal"):
            parse_head(wrong)


async def answer(path, raw):
    async def handle(reader, writer):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST /reload HTTP/1.1\r\n")
        writer.write(raw)
        writer.close()

    async with await asyncio.start_unix_server(handle, path):
        return await post(path, "/reload", 5.0)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 409 C\r\ncontent-length: 4\r\n\r\nbusy",
        b"HTTP/1.1 409 C\r\n\r\nbusy\n",
        b"HTTP/1.1 409 C\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbu\r\n2;x=y\r\nsy\r\n0\r\n\r\n",
    ],
)
async def test_answers(short_dir, raw):
    assert await answer(short_dir / "a.sock", raw) == Answer(409, "busy")


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut", b"SSH-2.0\r\n\r\n"])
async def test_what_is_no_answer(short_dir, raw):
    with pytest.raises(ConnectionError):
        await answer(short_dir / "a.sock", raw)


async def test_nobody_listens(short_dir):
    with pytest.raises(FileNotFoundError):
        await post(short_dir / "a.sock", "/reload", 5.0)
