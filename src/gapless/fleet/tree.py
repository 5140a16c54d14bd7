"""Copies a source directory into a snapshot, and names it by what was copied.

The digest is taken of the very bytes that are written, so that a source that is edited meanwhile cannot give one name
to two contents. Entries are counted in sorted order, each field with its length before it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from gapless.core.errors import ReleaseError
from gapless.fleet.ignore import DEFAULTS, IGNORE_FILE, Pattern, ignored, patterns

BLOCK = 1 << 20


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def new_digest(kind: str) -> Digest:
    """A digest that no other kind of content can share."""
    digest = hashlib.sha256()
    feed(digest, b"gapless-release-1", kind.encode())
    return digest


def feed(digest: Digest, *fields: bytes) -> None:
    """Add fields so that no two lists of fields give the same bytes."""
    for data in fields:
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)


def copy_tree(source: Path, target: Path, digest: Digest, without: Path) -> int:
    """Copy what is not ignored; return the number of files. `without` is the state directory, which may lie inside.

    Sockets, pipes and devices are no content and are left out; so are virtual environments, whatever their name.
    Raises ReleaseError for a link that leaves the tree, OSError for what cannot be read or written.
    """
    rules = _rules(source)
    os.mkdir(target)
    files = 0
    for entry, path in _walk(source, "", rules, without):
        place = target / path
        if entry.is_symlink():
            _copy_link(source, path, place, digest)
        elif entry.is_dir():
            feed(digest, b"directory", os.fsencode(path))
            os.mkdir(place)
        else:
            _copy_entry(entry, path, place, digest)
            files += 1
    return files


def _rules(source: Path) -> tuple[Pattern, ...]:
    try:
        own = (source / IGNORE_FILE).read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        own = ""
    return patterns(DEFAULTS + own)


def _walk(top: Path, below: str, rules: Sequence[Pattern], without: Path) -> Iterator[tuple[os.DirEntry[str], str]]:
    with os.scandir(top / below) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        if ignored(rules, path, is_directory) or not (is_directory or _is_content(entry)):
            continue
        if is_directory and _is_foreign(entry, without):
            continue
        yield entry, path
        if is_directory:
            yield from _walk(top, path, rules, without)


def _is_content(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or entry.is_file(follow_symlinks=False)


def _is_foreign(entry: os.DirEntry[str], without: Path) -> bool:
    return os.path.exists(os.path.join(entry.path, "pyvenv.cfg")) or os.path.realpath(entry.path) == str(without)


def _copy_link(source: Path, path: str, place: Path, digest: Digest) -> None:
    target = inner_target(str(source), path, os.readlink(source / path))
    if target is None or not _is_within(os.path.realpath(source / path), os.path.realpath(source)):
        raise ReleaseError(
            f"{source / path} is a link that leaves {source} (to {os.readlink(source / path)})",
            f"Put the file itself there, or name the link in {IGNORE_FILE}.",
        )
    feed(digest, b"link", os.fsencode(path), os.fsencode(target))
    os.symlink(target, place)


def inner_target(top: str, path: str, target: str) -> str | None:
    """The target of the link at `path`, relative to the link; None when it is outside `top`."""
    here = os.path.dirname(os.path.join(top, path))
    there = os.path.normpath(os.path.join(here, target))
    return os.path.relpath(there, here) if _is_within(there, os.path.normpath(top)) else None


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _copy_entry(entry: os.DirEntry[str], path: str, place: Path, digest: Digest) -> None:
    mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode) & 0o555
    feed(digest, b"file", os.fsencode(path), oct(mode).encode())
    copy_file(Path(entry.path), place, digest)
    os.chmod(place, mode | stat.S_IRUSR)


def copy_file(source: Path, place: Path, digest: Digest) -> None:
    """Copy the bytes and count them."""
    inner = hashlib.sha256()
    with open(source, "rb", buffering=0) as reader, open(place, "xb", buffering=0) as writer:
        while block := reader.read(BLOCK):
            inner.update(block)
            writer.write(block)
    feed(digest, inner.digest())


def seal(top: Path) -> None:
    """Make everything below read-only and put it on the disk: after this it may be given its name."""
    for place, directories, files in os.walk(top, topdown=False):
        for name in files:
            _seal(os.path.join(place, name), os.O_RDONLY)
        for name in directories:
            _seal(os.path.join(place, name), os.O_RDONLY | os.O_DIRECTORY)
    _seal(str(top), os.O_RDONLY | os.O_DIRECTORY)


def _seal(path: str, flags: int) -> None:
    if os.path.islink(path):
        return
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, stat.S_IMODE(os.fstat(handle).st_mode) & 0o555)
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(top: Path) -> None:
    """Remove a tree that may be read-only. No error when it is gone."""
    import shutil

    if not top.exists():
        return
    os.chmod(top, 0o700)
    for place, directories, _ in os.walk(top):
        for name in directories:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(top, ignore_errors=False)
