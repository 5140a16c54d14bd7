"""A directory of settings files, one for each service, as a Git commit has it: `orders.yaml`, `stock.toml`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gapless.config.content import parsed
from gapless.config.document import Document, dotted
from gapless.core.errors import ConfigError
from gapless.core.ports import World
from gapless.core.watched import content_of
from gapless.core.world import RealWorld

SUFFIXES = (".yaml", ".yml", ".json", ".toml")
NOT_SETTINGS = ("gapless.yaml",)
ANYWAY = "Commit first, or pass --dirty to take the files as they are."


@dataclass(frozen=True, slots=True)
class FileSettings:
    """One service's. `places`: `orders.yaml:3` by dotted path."""

    values: Mapping[str, Any]
    places: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Imported:
    """`label`: the commit, with `+changes` when the files are not those of it; empty without one."""

    label: str
    services: Mapping[str, FileSettings] = field(default_factory=dict)


async def read_directory(directory: Path, dirty: bool, world: World | None = None) -> Imported:
    """Raises ConfigError: no commit, changes that are not committed, no settings, or everything that is wrong in any of
    the files. `dirty`: take them anyway."""
    label = await _label(_there(directory), dirty, world or RealWorld())
    documents: dict[str, tuple[Path, Document]] = {}
    problems: list[str] = []
    for path in _files(directory):
        document = parsed(content_of(path), path.name)
        problems += [f"{path.name}:{problem.line}: {problem}" for problem in document.problems]
        if path.stem in documents:
            problems.append(f"{path.name}: {documents[path.stem][0].name} is there for {path.stem} as well")
        documents[path.stem] = path, document
    if problems or not documents:
        what = "\n".join(problems) or f"{directory} has no settings: {', '.join(SUFFIXES)}"
        raise ConfigError(what, "Nothing was changed.")
    return Imported(label, {name: _settings(path, document) for name, (path, document) in documents.items()})


def _there(directory: Path) -> Path:
    if not directory.is_dir():
        raise ConfigError(f"there is no directory {directory}", "Name one with a file for each service.")
    return directory.absolute()


def _files(directory: Path) -> list[Path]:
    there = sorted(directory.iterdir())
    return [p for p in there if p.suffix in SUFFIXES and p.name not in NOT_SETTINGS and not p.name.startswith(".")]


def _settings(path: Path, document: Document) -> FileSettings:
    places = {dotted(place): f"{path.name}:{line}" for place, line in document.lines.items() if place}
    return FileSettings(document.value, places)


async def _label(directory: Path, dirty: bool, world: World) -> str:
    status, commit = await _git(directory, world, "rev-parse", "--short=12", "HEAD")
    if status:
        if dirty:
            return ""
        raise ConfigError(f"{directory} has no commit: {commit.splitlines()[-1] if commit else 'git failed'}", ANYWAY)
    status, changed = await _git(directory, world, "status", "--porcelain", "--", ".")
    if status or (changed and not dirty):
        raise ConfigError(f"{directory} has changes that are not committed:\n{changed}", ANYWAY)
    return f"{commit}+changes" if changed else commit


async def _git(directory: Path, world: World, *words: str) -> tuple[int, str]:
    """Exit status, and what it wrote. Raises ConfigError without git."""
    argv: Sequence[str] = ("git", "-C", str(directory), *words)
    with tempfile.TemporaryDirectory(prefix="gapless-") as place:
        output = Path(place) / "git"
        try:
            process = await world.spawn(argv, env={**os.environ, "LC_ALL": "C"}, cwd=directory, output=output)
        except OSError as error:
            raise ConfigError(f"git cannot be run: {error.strerror}", "Install it, or pass --dirty.") from error
        status = await process.wait()
        return status, output.read_text(errors="replace").strip()
