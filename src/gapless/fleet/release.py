"""Releases as immutable snapshots: `<root>/<digest>/code`, and `env` when the release has an environment of its own.

A snapshot is built beside its place under a hidden name, put on the disk, made read-only and only then renamed, so that
a name always stands for a whole one. A builder holds a lock on its directory: what is not locked was left by a crash.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import py_compile
import sys
import zipfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from gapless.core.errors import ReleaseError
from gapless.core.events import Event, StageEnded
from gapless.core.ports import World
from gapless.fleet.environment import Builder
from gapless.fleet.ignore import IGNORE_FILE
from gapless.fleet.tree import Digest, copy_file, copy_tree, feed, new_digest, remove_tree, seal

P = ParamSpec("P")
T = TypeVar("T")

_BUILDING = ".building-"
_REMOVING = ".removing-"
REQUIREMENTS = "requirements.txt"


class Snapshots:
    """The snapshots below `root`. `without` is the state directory, which is never part of one."""

    def __init__(self, root: Path, without: Path, world: World, hook: Callable[[Event], None]) -> None:
        self._root = root
        self._without = without
        self._world = world
        self._hook = hook
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def code(self, digest: str) -> Path:
        """The directory that instances run in."""
        return self._root / digest / "code"

    def python(self, digest: str) -> str:
        """The interpreter of the release: its own, or the one that runs this."""
        own = self._root / digest / "env" / "bin" / "python"
        return str(own) if own.exists() else sys.executable

    def has(self, digest: str) -> bool:
        return self.code(digest).is_dir()

    async def make(self, source: Path) -> str:
        """Snapshot a directory or a wheel and return its digest; the same content is kept once.

        Raises ReleaseError, and leaves nothing half-made.
        """
        with _translated(source, self._root):
            source = check_source(source)
            async with self._scratch() as scratch:
                digest = await self._timed("copy", in_thread(self._fill, source, scratch))
                async with self._locks[digest]:
                    if not self.has(digest):
                        await self._finish(source, scratch, digest)
            return digest

    async def prune(self, keep: set[str]) -> tuple[str, ...]:
        """Remove every snapshot that is not in `keep`; return their digests. Nothing may run from them."""
        return await in_thread(self._prune, frozenset(keep))

    def sweep(self) -> None:
        """Remove what a crash left half-made. What another builder works on is locked, and stays."""
        for place in self._root.glob(".*-*"):
            with _locked(place) as free:
                if free:
                    remove_tree(place)

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        self._root.mkdir(parents=True, exist_ok=True)
        place = self._root / f"{_BUILDING}{self._world.token()}"
        place.mkdir(mode=0o700)
        with _locked(place):
            try:
                yield place
            finally:
                await in_thread(remove_tree, place)

    def _fill(self, source: Path, scratch: Path) -> str:
        if source.is_file():
            return _fill_from_wheel(source, scratch)
        digest = new_digest("directory")
        if not copy_tree(source, scratch / "code", digest, self._without):
            raise ReleaseError(f"{source} holds no files to release", f"Check `source`, and {IGNORE_FILE} there.")
        if (scratch / "code" / REQUIREMENTS).is_file():
            _feed_interpreter(digest)
        return digest.hexdigest()

    async def _finish(self, source: Path, scratch: Path, digest: str) -> None:
        """Everything between the copy and the name."""
        requirement = _requirement(source, scratch)
        if requirement:
            final = self._root / digest
            builder = Builder(self._world, scratch / "env", final / "env", scratch / "build.log")
            await self._timed("environment", builder.build(requirement, scratch / "code"))
        await self._timed("seal", in_thread(self._publish, scratch, digest))

    def _publish(self, scratch: Path, digest: str) -> None:
        for wheel in scratch.glob("*.whl"):
            wheel.unlink()
        compile_code(scratch / "code", self.code(digest))
        seal(scratch)
        try:
            os.rename(scratch, self._root / digest)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            return  # another process has published the same content meanwhile
        _sync_directory(self._root)

    def _prune(self, keep: frozenset[str]) -> tuple[str, ...]:
        gone = [place for place in sorted(self._root.glob("[!.]*")) if place.name not in keep]
        for place in gone:
            hidden = place.with_name(f"{_REMOVING}{place.name}")
            os.rename(place, hidden)  # first its name, at once; a crash during the removal leaves no half snapshot
            remove_tree(hidden)
        return tuple(place.name for place in gone)

    async def _timed(self, stage: str, work: Awaitable[T]) -> T:
        began = self._world.now()
        done = await work
        self._hook(StageEnded(name=f"snapshot {stage}", took_s=self._world.now() - began))
        return done


def check_source(source: Path) -> Path:
    """The absolute source. Raises ReleaseError when nothing can be made of it."""
    place = Path(os.path.realpath(source))
    if not place.exists():
        raise ReleaseError(f"{source} does not exist", "Give a directory or a wheel (`source:`, or --from).")
    if place.is_file() and not (place.suffix == ".whl" and zipfile.is_zipfile(place)):
        raise ReleaseError(
            f"{source} is neither a directory nor a wheel", "Give one of these; `pip wheel .` makes one."
        )
    if not (place.is_dir() or place.is_file()):
        raise ReleaseError(f"{source} is neither a directory nor a wheel", "Give one of these.")
    return place


def _fill_from_wheel(wheel: Path, scratch: Path) -> str:
    digest = new_digest("wheel")
    (scratch / "code").mkdir()
    copy_file(wheel, scratch / wheel.name, digest)
    _feed_interpreter(digest)
    return digest.hexdigest()


def _feed_interpreter(digest: Digest) -> None:
    """An environment only fits the Python that made it."""
    feed(digest, str(sys.implementation.cache_tag).encode())


def _requirement(source: Path, scratch: Path) -> list[str]:
    """What pip has to install; empty when the release needs no environment of its own."""
    if source.is_file():
        return [str(scratch / source.name)]
    return ["-r", REQUIREMENTS] if (scratch / "code" / REQUIREMENTS).is_file() else []


def compile_code(code: Path, final: Path) -> None:
    """Byte code beside the sources, for the place where they will be: instances cannot write there, and a shared cache
    directory would make Python forget the byte code of its own library. Files never change, so none is checked."""
    for source in sorted(code.rglob("*.py")):
        if source.is_symlink():
            continue
        shown = str(final / source.relative_to(code))
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        try:
            py_compile.compile(str(source), dfile=shown, doraise=True, invalidation_mode=mode)
        except (py_compile.PyCompileError, ValueError, RecursionError):
            continue  # its import will tell, in the log of the instance that needs it


@contextmanager
def _translated(source: Path, root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _release_error(source, root, error) from error


def _release_error(source: Path, root: Path, error: OSError) -> ReleaseError:
    place = str(error.filename or source)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            what, remedy = (
                f"the disk is full, {source} could not be copied",
                "Free some space, or name another --state.",
            )
        case _ if place.startswith(str(root)):
            what, remedy = f"{place} cannot be written: {error.strerror}", "Correct that, or name another --state."
        case errno.EACCES | errno.EPERM:
            what, remedy = f"{place} may not be read", f"Change its permissions, or name it in {IGNORE_FILE}."
        case errno.ENOENT:
            what, remedy = f"{place} vanished while it was copied", "Deploy again when the source is at rest."
        case _:
            what, remedy = f"{place} cannot be copied: {error.strerror}", f"Correct it, or name it in {IGNORE_FILE}."
    return ReleaseError(what, remedy)


@contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Hold the directory's lock; False when somebody else does. The kernel frees it when the holder dies."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _sync_directory(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run it in a thread, and never leave it behind: a cancelled caller waits for its end before it cleans up."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
