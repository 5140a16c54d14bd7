"""Where all desired and observed state lives: versioned, watched keys (`core.ports.Store`), one file per backend."""

from __future__ import annotations

from pathlib import Path

from gapless.core.errors import ConfigError
from gapless.core.ports import Store, World
from gapless.store._address import SHARED, shared, shown

__all__ = ["SHARED", "open_store", "shared", "shown"]


async def open_store(where: str | Path, world: World) -> Store:
    """The open store at `memory:`, `sqlite:PATH`, a bare path, `etcd://HOST:PORT,…/PREFIX/`
    or `consul://HOST:PORT,…/PREFIX/`.

    Raises ConfigError for an address that means nothing; StoreLocked, StoreBroken and StoreFull as the backend does.
    """
    text = str(where)
    scheme, _, rest = text.partition(":")
    if text == "memory:":
        from gapless.store.memory import MemoryStore

        return MemoryStore(world)
    if scheme in ("etcd", "etcds"):
        from gapless.store._etcd_http import ETCD
        from gapless.store.etcd import EtcdStore

        return EtcdStore(ETCD.read(text), world)
    if scheme in ("consul", "consuls"):
        from gapless.store._consul_http import CONSUL
        from gapless.store.consul import ConsulStore

        return ConsulStore(CONSUL.read(text), world)
    return await _open_sqlite(_path(text, scheme, rest), world)


def _path(text: str, scheme: str, rest: str) -> Path:
    path = rest if scheme == "sqlite" else text
    if not path or "://" in path:
        raise ConfigError(
            f"store {shown(text)!r} means nothing",
            "Use memory:, sqlite:PATH, the path of a file, etcd://HOST:PORT or consul://HOST:PORT.",
        )
    return Path(path)


async def _open_sqlite(path: Path, world: World) -> Store:
    from gapless.store.sqlite import SqliteStore

    store = SqliteStore(path, world)
    await store.open()
    return store
