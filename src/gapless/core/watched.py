"""Documents that change: a file, or what a key of a store holds. Iterators of each new content, the present one first.

Guards and settings are both read from here. Looking at a file needs no facility that is missing on network file
systems, and notices atomic replacement and links that are switched.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

from gapless.core.errors import Compacted, ConfigError
from gapless.core.ports import Store, World

POLL_S = 1.0
"""Between two looks at a file: one stat a second."""
SETTLED_NS = 2_000_000_000
"""A file that was written so recently may be written again within one tick of its clock: its content is compared."""


async def file_contents(path: Path | str, world: World) -> AsyncGenerator[str | ConfigError, None]:
    """Each new content of a file, for ever; a ConfigError while it cannot be read."""
    mark, found = mark_of(path), _content(path)
    while True:
        yield found
        before, was = mark, found
        while found == was or (isinstance(found, ConfigError) and mark == before):
            await world.sleep(POLL_S)
            before, mark = mark, mark_of(path)
            if mark != before or world.time() * 1e9 - mark[0] < SETTLED_NS:
                found = _content(path)


def mark_of(path: Path | str) -> tuple[int, int, int]:
    """Changes whenever the file does, but for two writes within one tick of the file system's clock."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino


def content_of(path: Path | str) -> str:
    """The text of a file. Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8", "Save the file as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "Name a file that is there and readable.") from error


def _content(path: Path | str) -> str | ConfigError:
    try:
        return content_of(path)
    except ConfigError as error:
        return error


async def stored_contents(store: Store, key: str, nothing: str) -> AsyncGenerator[str | ConfigError, None]:
    """Each new text below a store's key, until the store closes; `nothing` while there is none."""
    while True:
        listing = await store.list(key)
        yield next((_decoded(entry.value) for entry in listing.entries if entry.key == key), nothing)
        try:
            async for updates in store.watch(key, after=listing.revision):
                for update in updates:
                    if update.key == key:
                        yield nothing if update.value is None else _decoded(update.value)
            return
        except Compacted:
            continue  # too far behind: look again at what is there


def _decoded(value: bytes) -> str:
    """What is not UTF-8 becomes signs that a parser refuses with their line."""
    return value.decode("utf-8", "replace")
