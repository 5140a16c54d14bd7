"""The systemd unit of a server, as text (systemd.service(5), systemd.exec(5), systemd.syntax(7))."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gapless.core.errors import ConfigError

MARGIN_S = 5.0
"""What systemd waits beyond our own limits, so that it is we who say what took so long."""
WATCHDOG_S = 60.0
"""Twice what a keeper waits for its master, which it replaces without the workers' noticing."""
DESCRIPTORS = 64
"""Room in systemd's store: a listener per address."""
OPEN_FILES = 65536
"""Each connection takes one; the usual soft limit of 1024 is reached by a few browsers."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:@=,+-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Unit(NamedTuple):
    """`python` is the interpreter, `options` are those of `gapless serve` including the app. `admin` is the path of the
    admin socket that they name, empty when they name none: then it is in the unit's own runtime directory. Limits in
    seconds. An empty user is the one whose systemd it is."""

    name: str
    python: str
    options: Sequence[str]
    directory: str
    admin: str = ""
    user: str = ""
    start_s: float = 30.0
    drain_s: float = 30.0


def unit_text(unit: Unit) -> str:
    """The content of NAME.service. Raises ConfigError for what systemd could not take."""
    if not _NAME.fullmatch(unit.name):
        raise ConfigError(f"{unit.name!r} cannot be a unit's name", "Give --name letters, digits, dots and dashes.")
    admin = f"--admin {_quoted('unix:' + unit.admin)}" if unit.admin else f"--admin unix:%t/{unit.name}/serve.sock"
    lines = [
        "[Unit]",
        f"Description={unit.name}, served by Gapless",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=notify",
        "# The keeper, its successor and the master below it report.",
        "NotifyAccess=all",
        "# Either of them may be killed: workers serve on, and another one takes its place.",
        "ExitType=cgroup",
        "# Or systemd would hold a keeper's death against the unit at its next reload, and stop it.",
        "SuccessExitStatus=SIGKILL",
        "RestartForceExitStatus=SIGKILL",
        f"ExecStart={_line([unit.python, '-m', 'gapless', 'serve', *unit.options])}{'' if unit.admin else ' ' + admin}",
        "# Waits until the new code serves, and fails when it was refused.",
        f"ExecReload={_line([unit.python, '-m', 'gapless', 'reload'])} {admin}",
        f"WorkingDirectory={_escaped(unit.directory)}",
        *([f"User={unit.user}"] if unit.user else []),
        f"RuntimeDirectory={unit.name}",
        f"TimeoutStartSec={unit.start_s + MARGIN_S:g}",
        f"TimeoutStopSec={unit.drain_s + MARGIN_S:g}",
        "# SIGTERM to the keeper alone: it drains the workers itself.",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartSec=100ms",
        f"WatchdogSec={WATCHDOG_S:g}",
        "# systemd keeps the listeners over a restart: connections wait instead of being refused.",
        f"FileDescriptorStoreMax={DESCRIPTORS}",
        f"LimitNOFILE={OPEN_FILES}",
        "NoNewPrivileges=yes",
        "",
        "[Install]",
        "WantedBy=multi-user.target" if unit.user else "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _line(words: Sequence[str]) -> str:
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    inner = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_escaped(inner)}"'


def _escaped(text: str) -> str:
    """% begins a specifier."""
    if any(character in text for character in "\n\r\0"):
        raise ConfigError(f"{text!r} holds a line break", "A unit file cannot carry it: give another value.")
    return text.replace("%", "%%")
