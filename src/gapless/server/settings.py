"""What `gapless serve` was asked to do, as frozen values."""

from __future__ import annotations

from typing import Any, NamedTuple

from gapless.core.errors import ConfigError

KEEP_ALIVE_S = 75.0
"""Above the idle time-outs that proxies keep towards their upstreams (60 s is common), so that it is the proxy that
closes first and never sends a request into a closing connection."""
DRAIN_S = 30.0
START_S = 30.0

BEFORE_LIMIT_S = 0.3
"""How long before the start limit a start-up that hangs shows where it hangs."""
ALIVE_S = 0.1
"""How long before that a loop that is alive calls it off."""


class Settings(NamedTuple):
    """The whole server's. `binds` as typed; `admin` is a path, empty for the default below the working directory."""

    app: str
    binds: tuple[str, ...] = ("127.0.0.1:8000",)
    workers: int = 1
    admin: str = ""
    drain_s: float = DRAIN_S
    start_s: float = START_S
    factory: bool = False
    app_dir: str = ""
    pid_file: str = ""
    access_log: bool = False
    keep_alive_s: float = KEEP_ALIVE_S


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


def task_of(settings: Settings, generation: int) -> Task:
    shared = {name: value for name, value in settings._asdict().items() if name in Task._fields}
    return Task(**shared, generation=generation)


def task_from(fields: dict[str, Any]) -> Task:
    """The task as it came through the channel; what this version does not know is ignored."""
    return Task(**{name: fields[name] for name in Task._fields})


_UNITS_S = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0))


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
