"""How an instance's process is started: argv and environment, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gapless.core.errors import InstanceFailed
from gapless.core.model import Instance, Network, Protocol, Release, Service
from gapless.core.model.network import ON_LOOPBACK
from gapless.fleet.process import INSTANCE, STATE
from gapless.service.protect_rules import VARIABLE, render

INHERITED = (
    "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ",
    "USER",
)  # fmt: skip
"""All that is taken over from who started the control plane (and LC_*, GAPLESS_*): settings belong into `env:`, where
a release keeps them, so that an instance does not depend on the terminal of the person who last typed `gapless up`."""

CONSOLE_TOKEN = "GAPLESS_CONSOLE_TOKEN"  # noqa: S105 - the name of a variable

SOCKET_PATH_LIMIT = 100
"""Linux allows 107 bytes (unix(7)); the rest is room for the names that a server makes from it."""


def run_directory(state: Path) -> Path:
    return state / "run"


def admin_socket(state: Path, instance: str) -> Path:
    """Where an instance listens for its administrator."""
    return run_directory(state) / f"{instance}.sock"


def check_name(instance: str) -> None:
    """Ids become names of files. Raises InstanceFailed."""
    if not instance or "/" in instance or "\0" in instance or instance.startswith("."):
        raise InstanceFailed(f"{instance!r} cannot be an instance's id", "Use letters, digits, dots and hyphens.")


def is_app(release: Release, service: Service) -> bool:
    """Whether Gapless's own server runs it. A release that names neither is started as its service says."""
    return bool(release.app or (service.app and not release.command))


def argv(
    instance: Instance, release: Release, service: Service, state: Path, python: str, network: Network = ON_LOOPBACK
) -> list[str]:
    """Raises InstanceFailed when the service has nothing to run, or when the state directory's path is too long."""
    if is_app(release, service):
        return _serve(instance, release.app or service.app, service, state, python, network)
    words = release.command or service.command
    if not words:
        raise InstanceFailed(f"service {service.name} has neither `app` nor `command`", "Give one in gapless.yaml.")
    listen = network.listen(instance.address)
    values = {"port": str(listen.port), "host": listen.host, "state": str(state)}
    return [fill(word, values) for word in words]


def _serve(instance: Instance, app: str, service: Service, state: Path, python: str, network: Network) -> list[str]:
    socket = str(admin_socket(state, instance.id))
    if len(socket.encode()) > SOCKET_PATH_LIMIT:
        raise InstanceFailed(
            f"the admin socket's path is too long ({len(socket.encode())} of {SOCKET_PATH_LIMIT} bytes): {socket}",
            "Give a shorter state directory: --state /tmp/shop.",
        )
    return [
        *(python, "-m", "gapless", "serve", app),
        *(("--grpc",) if service.upstream.protocol is Protocol.GRPC else ()),
        *("--bind", str(network.listen(instance.address))),
        *("--admin", f"unix:{socket}", "--workers", str(service.workers)),
        *("--drain", f"{service.drain_s:g}", "--start", f"{service.start_s:g}"),
        *(("--access-log", "--access-sample", f"{service.access_log:.6%}") if service.access_log else ()),
        *(part for each in network.trusted for part in ("--trust", each)),
    ]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace `{name}`; other braces stay as they are."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def environment(
    inherited: Mapping[str, str],
    instance: Instance,
    release: Release,
    service: Service,
    state: Path,
    first: Path | None,
) -> dict[str, str]:
    """The whole environment. `first`: a directory of programs that come before those of PATH. Later ones win."""
    taken = {k: v for k, v in inherited.items() if k in INHERITED or k.startswith(("LC_", "GAPLESS_"))}
    if first:
        taken["PATH"] = ":".join(filter(None, (str(first), taken.get("PATH", ""))))
    taken.pop(VARIABLE, None)  # of an instance in which this control plane runs
    taken.pop(CONSOLE_TOKEN, None)  # whoever has it steers every service
    settings, rules = {**service.env, **release.env}, render(service)
    return {
        **taken,
        "PYTHONUNBUFFERED": "1",  # or the last words of a crash stay in a buffer
        **{k: fill(v, {"state": str(state)}) for k, v in settings.items()},
        "GAPLESS_SERVICE": instance.service,
        "GAPLESS_RELEASE": instance.release,
        INSTANCE: instance.id,
        STATE: str(state),
        "GAPLESS_DISCOVERY": str(state / "control.sock"),
        **({VARIABLE: rules} if rules else {}),
    }
