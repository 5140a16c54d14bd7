"""What `gapless serve` was asked to do, as frozen values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gapless.core.errors import ConfigError
from gapless.server.http.client_limits import ClientLimits

KEEP_ALIVE_S = 75.0
"""Above the idle time-outs that proxies keep towards their upstreams (60 s is common), so that it is the proxy that
closes first and never sends a request into a closing connection."""
LOOPBACK = ("127.0.0.0/8", "::1")
"""Whose word on where a request comes from is believed by default: proxies on this machine."""
DRAIN_S = 30.0
START_S = 30.0

HEARTBEAT_S = 30.0
"""A loop that has been blocked for so long will not come back: others wait for its connections."""
ANNOUNCE_S = 0.3
"""How long a whole server that ends says so and still accepts: as `core.lifecycle` has it; its import would be felt."""
ANNOUNCE_CLUSTER_S = 5.0
"""In Kubernetes, where endpoints reach every node within some seconds: others have a `preStop` hook sleep for it."""
CARRY_S = 1.0
"""The longest that a hand-over waits for state in memory."""
CRASHES = 16
"""In a row, which takes about four minutes: what has not healed by then needs somebody, who should hear of it."""

AUTO, WSGI, GRPC = "auto", "wsgi", "grpc"

TLS_MIN = "1.2"

BEFORE_LIMIT_S = 0.3
"""How long before the start limit a start-up that hangs shows where it hangs."""
ALIVE_S = 0.1
"""How long before that a loop that is alive calls it off."""


class Settings(NamedTuple):
    """The whole server's. `binds` as typed, none for what systemd passes or the default; `admin` is a path, empty for
    the default below the working directory."""

    app: str
    binds: tuple[str, ...] = ()
    workers: int = 1
    admin: str = ""
    drain_s: float = DRAIN_S
    announce_s: float = ANNOUNCE_S
    start_s: float = START_S
    factory: bool = False
    app_dir: str = ""
    pid_file: str = ""
    access_log: bool = False
    access_sample: float = 1.0
    keep_alive_s: float = KEEP_ALIVE_S
    interface: str = AUTO
    threads: int = 0
    bake_s: float = 0.0
    heartbeat_s: float = HEARTBEAT_S
    max_crashes: int = CRASHES
    max_requests: int = 0
    max_age_s: float = 0.0
    max_memory: int = 0
    affinity: bool = False
    trust: tuple[str, ...] = LOOPBACK
    limits: ClientLimits = ClientLimits()
    reload_on: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tls_min: str = TLS_MIN
    socket_mode: int = 0o666
    socket_owner: str = ""
    root_path: str = ""


class Task(NamedTuple):
    """What one worker is told to serve."""

    app: str
    factory: bool
    app_dir: str
    workers: int
    drain_s: float
    start_s: float
    access_log: bool
    keep_alive_s: float
    generation: int
    interface: str = AUTO
    """AUTO recognizes ASGI and WSGI apps."""
    threads: int = 0
    """That a WSGI app gets; 0: as the kit thinks right."""
    heartbeat_s: float = HEARTBEAT_S
    carry_s: float = CARRY_S
    announce_s: float = ANNOUNCE_S
    tls_cert: str = ""
    """A path; empty: no TLS."""
    tls_key: str = ""
    tls_client_ca: str = ""
    tls_min: str = TLS_MIN
    bakes: bool = False
    """The master reads along what it writes until its bake time is over, for the report should it fail."""
    cpu: int = -1
    """The one that it is bound to when it begins to serve; -1: none."""
    trust: Sequence[str] = LOOPBACK
    root_path: str = ""
    """Below which the app lies; empty or like "/shop"."""
    access_sample: float = 1.0
    """The share of the requests that is logged; failed and slow ones always are."""
    limits: Mapping[str, Any] = ClientLimits()._asdict()
    """By name, for versions that know more or fewer of them."""


def task_of(settings: Settings, generation: int, cpu: int = -1, *, bakes: bool = False) -> Task:
    shared = {name: value for name, value in settings._asdict().items() if name in Task._fields}
    shared["limits"] = settings.limits._asdict()
    return Task(**shared, generation=generation, cpu=cpu, bakes=bakes)


def task_from(fields: dict[str, Any]) -> Task:
    """The task as it came through the channel; what this version does not know is ignored."""
    return Task(**{name: fields[name] for name in Task._fields if name in fields})


def tls_paths(cert: str, key: str, client_ca: str, minimum: str) -> dict[str, str]:
    """The settings for TLS, with paths that stay right when the app changes its directory. What is in the files only
    the workers see. Raises ConfigError."""
    if not cert and (key or client_ca):
        raise ConfigError("--tls-key and --tls-client-ca need --tls-cert", "Give the certificate, too.")
    if minimum not in ("1.2", "1.3"):
        raise ConfigError(f"--tls-min {minimum!r} is no version that is safe to speak", "Give 1.2 or 1.3.")
    given = {"tls_cert": cert, "tls_key": key or cert, "tls_client_ca": client_ca}
    for name, path in given.items():
        if path and not os.path.isfile(path):
            raise ConfigError(f"--{name.replace('_', '-')}: there is no file {path}", "Give the path of a PEM file.")
    return {**{name: path and os.path.abspath(path) for name, path in given.items()}, "tls_min": minimum}


def announce(text: str, environment: Mapping[str, str]) -> float:
    """`--announce`; empty: as long as this place needs. Raises ConfigError."""
    if text:
        return seconds_or_0(text, "--announce")
    return ANNOUNCE_CLUSTER_S if "KUBERNETES_SERVICE_HOST" in environment else ANNOUNCE_S


_UNITS_S = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0))


def seconds_or_0(text: str, option: str) -> float:
    """As `seconds`; 0, "0s" and an empty text are 0."""
    return 0.0 if text in ("", "0", "0s") else seconds(text, option)


def share(text: str, option: str) -> float:
    """`10%` as 0.1. Raises ConfigError."""
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else -1.0
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"{option} {text!r} is no share", 'Write for instance "10%".')
    return value


def seconds(text: str, option: str) -> float:
    """`30s`, `500ms`, `2m` or a number of seconds, as gapless.yaml takes them; without its imports, which would double
    the time that a start takes. Raises ConfigError."""
    unit, factor = next((unit, factor) for unit, factor in _UNITS_S if text.endswith(unit))
    try:
        value = float(text.removesuffix(unit)) * factor
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{option} {text!r} is no duration", 'Write for instance "30s", "500ms" or "2m".')
    return value
