"""A release's own virtual environment: made, filled, moved to its final place.

pip puts absolute paths into scripts and byte code, but a release is built in one place and published in another by a
rename; so nothing is compiled by pip, and the paths in scripts are rewritten before the rename.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from gapless.core.errors import ReleaseError
from gapless.core.ports import World
from gapless.fleet.logs import tail
from gapless.fleet.process import kill_children

LAST_LINES = 15
"""Of a failed step, shown in the error: pip says why at the end."""
PIP_OPTIONS = ("--no-compile", "--no-input", "--disable-pip-version-check")
SCRIPT_LIMIT = 1 << 16
"""Scripts that name their interpreter are small; programs are not rewritten."""


class Builder:
    """Builds one environment at `place`, to be used at `final`; the steps' output goes to `log`."""

    def __init__(self, world: World, place: Path, final: Path, log: Path) -> None:
        self._world = world
        self._place = place
        self._final = final
        self._log = log

    @property
    def _python(self) -> str:
        return str(self._place / "bin" / "python")

    async def build(self, requirement: Sequence[str], cwd: Path) -> None:
        """Make the environment and install: `requirement` is what follows `pip install`. Raises ReleaseError."""
        borrowed = can_lend_pip()
        await self._run(
            [sys.executable, "-P", "-m", "venv", *(["--without-pip"] if borrowed else []), str(self._place)],
            cwd,
            "Python cannot make virtual environments here: on Debian, apt install python3-venv.",
        )
        pip = [sys.executable, "-P", "-m", "pip", "--python", self._python] if borrowed else [self._python, "-m", "pip"]
        await self._run(
            [*pip, "install", *PIP_OPTIONS, *requirement],
            cwd,
            "Correct the requirements, or check that the package index can be reached; then deploy again.",
        )
        _relocate(self._place / "bin", str(self._place), str(self._final))
        _write_fallback(self._place)
        await self._compile(cwd)

    async def _run(self, argv: Sequence[str], cwd: Path, remedy: str) -> None:
        status = await self._status(argv, cwd)
        if status:
            what = "pip install" if "install" in argv else "python -m venv"
            raise ReleaseError(f"`{what}` failed (exit status {status}):\n{tail(self._log, LAST_LINES)}", remedy)

    async def _status(self, argv: Sequence[str], cwd: Path) -> int:
        try:
            process = await self._world.spawn(argv, env=build_environment(os.environ), cwd=cwd, output=self._log)
        except OSError as error:
            raise ReleaseError(f"{argv[0]} cannot be run: {error.strerror}", "Reinstall this Python.") from error
        try:
            return await process.wait()
        except BaseException:
            kill_children(process.pid)  # pip starts programs of its own
            process.kill(signal.SIGKILL)
            await process.wait()
            raise

    async def _compile(self, cwd: Path) -> None:
        """Byte code for the final place. What does not compile is left: its import will tell."""
        packages = str(self._place / "lib")
        where = ["-s", str(self._place), "-p", str(self._final)]
        mode = ["--invalidation-mode", "unchecked-hash", "-qq"]
        await self._status([self._python, "-I", "-m", "compileall", *where, *mode, packages], cwd)


def can_lend_pip() -> bool:
    """Whether this Python's own pip can fill another environment (`--python`, pip 22.3). Without a copy of pip in it an
    environment is made in a seventh of the time and has 1,400 files less to put on the disk."""
    try:
        return int(metadata.version("pip").partition(".")[0]) >= 23
    except (metadata.PackageNotFoundError, ValueError):
        return False


def build_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What pip sees: everything (proxies, its own settings, credentials helpers) but what would bend Python itself."""
    return {k: v for k, v in inherited.items() if k != "VIRTUAL_ENV" and not k.startswith("PYTHON")}


def _relocate(scripts: Path, built_at: str, used_at: str) -> None:
    for script in scripts.iterdir():
        if script.is_symlink() or not script.is_file() or script.stat().st_size > SCRIPT_LIMIT:
            continue
        text = script.read_bytes()
        if built_at.encode() in text:
            script.write_bytes(text.replace(built_at.encode(), used_at.encode()))


def fallback_directories(path: Sequence[str], package: Path) -> tuple[str, ...]:
    """Where Gapless and what it needs lie, in the order of the control plane's own path."""
    own = [place for place in path if os.path.basename(place) in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys([*own, str(package)]))


def _write_fallback(environment: Path) -> None:
    """Let the release find Gapless itself, after everything of its own: its own versions win.

    `addsitedir` instead of plain lines, because only it reads the .pth files of editable installs there. Written after
    pip has run, or pip would take the control plane's packages for the release's."""
    import gapless

    places = fallback_directories(sys.path, Path(gapless.__file__).resolve().parent.parent)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    lines = "".join(f"import site; site.addsitedir({place!r})\n" for place in places)
    (packages / "zzz-gapless-fallback.pth").write_text(lines)
