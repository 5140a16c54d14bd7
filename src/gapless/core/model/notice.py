"""What people and programs are told, through which channels, and how far each channel is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gapless.core.model.alert import Severity


class Topic(StrEnum):
    """What a notice is about."""

    CHANGES = "changes"
    ROLLOUTS = "rollouts"
    ALERTS = "alerts"
    INCIDENTS = "incidents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell that is no change: an alert or an incident that moved. Written in one transaction with it."""

    number: int
    at: float
    topic: Topic
    title: str
    text: str = ""
    service: str = ""
    severity: Severity = Severity.P3
    state: str = ""
    """`firing`, `resolved`, `opened`, `closed`, …"""
    labels: Mapping[str, str] = field(default_factory=dict)
    about: int = 0
    """The number of the alert or incident."""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A way to somebody. Exactly one of `webhook`, `slack`, `mail_to` and `command` is given. Texts may be references
    to secrets (`config.secret_references`), which are read when something is sent."""

    name: str
    webhook: str = ""
    """A URL that gets the notice as JSON."""
    secret: str = ""
    """What a webhook's signature is made with."""
    headers: Mapping[str, str] = field(default_factory=dict)
    slack: str = ""
    """The URL of an incoming webhook of Slack, Mattermost, Rocket.Chat, …"""
    mail_to: tuple[str, ...] = ()
    mail_from: str = ""
    server: str = ""
    """`smtp://HOST:PORT`, `smtps://HOST:PORT`."""
    user: str = ""
    password: str = ""
    command: tuple[str, ...] = ()
    """argv; it gets the notice as JSON on its standard input."""
    timeout_s: float = 10.0
    deadline_s: float = 3600.0
    """What could not be delivered within so long is a dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyRoute:
    """Which notices go to which channels. Empty fields match everything."""

    to: tuple[str, ...]
    what: tuple[Topic, ...] = ()
    services: tuple[str, ...] = ()
    severity: tuple[Severity, ...] = ()
    """Of alerts and incidents; others have none, and pass."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of alerts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyPolicy:
    """`notify:` of gapless.yaml. Without routes every channel hears everything."""

    channels: tuple[Channel, ...] = ()
    routes: tuple[NotifyRoute, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """What a channel could not be told."""

    id: str
    title: str
    at: float
    error: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """How far a channel is: cursors into the change log and the notices, and the trouble with the one that is next."""

    name: str
    change: int = 0
    """The last number of the change log that needs nothing more."""
    notice: int = 0
    attempts: int = 0
    """At the one that is next."""
    next_at: float = 0.0
    """When it is tried again."""
    error: str = ""
    delivered: int = 0
    delivered_at: float = 0.0
    dead: tuple[DeadLetter, ...] = ()
    """The last of them."""
    died: int = 0
    """How many there were."""
