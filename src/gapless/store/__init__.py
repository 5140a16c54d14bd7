"""Where all desired and observed state lives: versioned, watched keys (`core.ports.Store`), one file per backend."""

from __future__ import annotations

from pathlib import Path

from gapless.core.errors import ConfigError
from gapless.core.ports import Store, World

_LATER = ("etcd", "consul")


async def open_store(where: str | Path, world: World) -> Store:
    """The open store at `memory:`, `sqlite:PATH`, or a bare path.

    Raises ConfigError for an address that means nothing; StoreLocked, StoreBroken and StoreFull as the backend does.
    """
    text = str(where)
    scheme, colon, rest = text.partition(":")
    if text == "memory:":
        from gapless.store.memory import MemoryStore

        return MemoryStore(world)
    if scheme in _LATER and colon:
        raise ConfigError(
            f"store {text!r}: {scheme} comes with a later version of Gapless",
            "Use sqlite:PATH for now; the keys can be moved over later.",
        )
    return await _open_sqlite(_path(text, scheme, rest), world)


def _path(text: str, scheme: str, rest: str) -> Path:
    path = rest if scheme == "sqlite" else text
    if not path or "://" in path:
        raise ConfigError(f"store {text!r} means nothing", "Use memory:, sqlite:PATH or the path of a file.")
    return Path(path)


async def _open_sqlite(path: Path, world: World) -> Store:
    from gapless.store.sqlite import SqliteStore

    store = SqliteStore(path, world)
    await store.open()
    return store
