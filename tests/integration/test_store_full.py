"""A disk without space: one clear error, nothing half done, and on it goes when there is space again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gapless.core.errors import StoreFull
from gapless.core.ports import Put
from gapless.core.world import RealWorld
from gapless.store.sqlite import SqliteStore


@pytest.fixture
def tiny() -> Iterator[Path]:
    """A file system of 1 MiB."""
    with tempfile.TemporaryDirectory(prefix="g-") as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        if mounted.returncode:
            pytest.fail(f"cannot mount here, run this test as root: {mounted.stderr.decode().strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def fill(path: Path, leave: int = 0) -> None:
    """Take all the space that there is, but for so many bytes."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            file.truncate(file.tell() - leave)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, RealWorld())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def write_until_full(store: SqliteStore) -> int:
    """Returns the number of the last pair that was acknowledged."""
    for number in range(1, 10_000):
        try:
            await store.transact(*(Put(key=key, value=str(number).encode() + b" " * 3000) for key in ("left", "right")))
        except StoreFull:
            return number - 1
    raise AssertionError("the disk was never full")


async def check_pair(store: SqliteStore, number: int) -> None:
    left, right = await store.get("left"), await store.get("right")
    if number == 0:
        assert left is right is None
    else:
        assert left is not None
        assert right is not None
        assert int(left.value) == int(right.value) == number
        assert left.revision == right.revision
        assert int((await store.history("left"))[0].value or b"") == number


@pytest.mark.parametrize("leave", range(0, 300_000, 28_672))
async def test_a_full_disk_is_said_and_survived(tiny: Path, leave: int) -> None:
    """Wherever it is that the space runs out: in the log, its index, a checkpoint."""
    async with opened(tiny / "store.db") as store:
        await store.put("first", b"1")
        fill(tiny / "filler", leave)
        number = await write_until_full(store)
        revision = (await store.list("")).revision
        for _ in range(20):
            with pytest.raises(StoreFull, match=r"no space for .*store\.db.*nothing was written\n  → Free some space"):
                await store.put("more", b"x" * 300_000)
        puts = (store.put(f"n{n}", b"x" * 300_000) for n in range(20))
        assert {type(result) for result in await asyncio.gather(*puts, return_exceptions=True)} == {StoreFull}
        await check_pair(store, number)
        assert (await store.list("")).revision == revision

        (tiny / "filler").unlink()
        assert await store.put("again", b"1") == revision + 1
    async with opened(tiny / "store.db") as store:
        assert [entry.key for entry in (await store.list("")).entries if entry.key in ("again", "n0", "more")] == [
            "again"
        ]
        assert (await store.list("")).revision == revision + 1
        await check_pair(store, number)


@pytest.mark.parametrize("leave", [0, 60_000, 130_000])
async def test_a_store_can_be_closed_on_a_full_disk(tiny: Path, leave: int) -> None:
    async with opened(tiny / "store.db") as store:
        await store.put("first", b"1")
        fill(tiny / "filler", leave)
        number = await write_until_full(store)
    (tiny / "filler").unlink()
    async with opened(tiny / "store.db") as store:
        await check_pair(store, number)
        assert await store.get("first")


@pytest.mark.parametrize("leave", [0, 60_000, 130_000])
async def test_a_full_disk_and_then_kill_9(tiny: Path, leave: int) -> None:
    """What was acknowledged before the disk was full is there, although the process never closed the store."""
    result = run_child(f"""
async def main():
    folder = Path({str(tiny)!r})
    async with opened(folder / "store.db") as store:
        await store.put("first", b"1")
        fill(folder / "filler", {leave})
        print(await write_until_full(store), flush=True)
        os.kill(os.getpid(), 9)
""")
    assert result.returncode == -9, result.stderr
    (tiny / "filler").unlink()
    async with opened(tiny / "store.db") as store:
        await check_pair(store, int(result.stdout))
        assert await store.get("first")


async def test_a_store_cannot_begin_on_a_full_disk(tiny: Path) -> None:
    fill(tiny / "filler")
    with pytest.raises(StoreFull):
        async with opened(tiny / "store.db"):
            pytest.fail("there was no space")
    (tiny / "filler").unlink()
    async with opened(tiny / "store.db") as store:
        assert await store.put("k", b"") == 1


def test_a_limit_on_file_sizes_is_a_full_disk_too(tmp_path: Path) -> None:
    """Needs no root: the kernel refuses to let any file of the child grow beyond 512 KiB (EFBIG)."""
    result = run_child(f"""
async def main():
    path = Path({str(tmp_path)!r}) / "store.db"
    async with opened(path) as store:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, hard))
        number = await write_until_full(store)
        await check_pair(store, number)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await store.put("again", b"x" * 1_000_000)
    async with opened(path) as store:
        assert await store.get("again")
        await check_pair(store, number)
    print("well", number)
""")
    assert result.stdout.startswith("well"), result.stderr


def run_child(main: str) -> subprocess.CompletedProcess[str]:
    script = f"""
import asyncio, os, resource
from pathlib import Path
from tests.integration.test_store_full import check_pair, fill, opened, write_until_full
{main}
asyncio.run(main())
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
