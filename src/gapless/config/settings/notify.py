"""`notify:`: who is told what."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.quantities import PositiveDuration
from gapless.config.secret_references import PREFIX
from gapless.config.settings.fields import Command, Name, text
from gapless.config.settings.references import Reference, reference
from gapless.core.model.alert import Severity
from gapless.core.model.notice import Channel, NotifyPolicy, NotifyRoute, Topic

_CHANNEL = Channel(name="")
_SERVER = re.compile(r"smtps?://[^/@\s]+(:\d+)?")
WAYS = ("webhook", "slack", "email", "command")


def _url(value: str) -> str:
    if not value.startswith((PREFIX, "http://", "https://")):
        raise ValueError('not a URL; write for instance "https://hooks.example/x" or secret:env:NAME')
    return reference(value)


def _server(value: str) -> str:
    if not _SERVER.fullmatch(value):
        raise ValueError('not a mail server; write for instance "smtp://mail.example:587" or "smtps://mail.example"')
    return value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Url = Annotated[str, BeforeValidator(text), AfterValidator(_url)]


class EmailSettings(Settings):
    to: Annotated[
        tuple[str, ...],
        BeforeValidator(_several),
        Field(min_length=1, description="Addresses.", examples=[["ops@shop.example"]]),
    ]
    sender: Annotated[
        str, Field(alias="from", min_length=3, description="Address of the sender.", examples=["gapless@shop.example"])
    ]
    server: Annotated[
        str,
        AfterValidator(_server),
        Field(
            description="`smtp://HOST:PORT`, encrypted when the server offers it, or `smtps://HOST:PORT`.",
            examples=["smtp://mail.example:587"],
        ),
    ]
    user: Annotated[str, Field(description="For a server that asks who it is.")] = ""
    password: Annotated[Reference, Field(description="A reference to the secret.", examples=["secret:env:SMTP"])] = ""

    @model_validator(mode="after")
    def _whole(self) -> EmailSettings:
        if bool(self.user) != bool(self.password):
            raise ValueError("give both user and password, or neither")
        return self


class ChannelSettings(Settings):
    webhook: Annotated[Url, Field(description="A URL that gets each notice as JSON, by POST.")] = ""
    secret: Annotated[
        Reference, Field(description="What the signature of a webhook is made with.", examples=["secret:env:HOOK_KEY"])
    ] = ""
    headers: Annotated[
        dict[str, Annotated[str, AfterValidator(reference)]], Field(description="Further headers of a webhook.")
    ] = Field(default_factory=dict)
    slack: Annotated[Url, Field(description="The URL of an incoming webhook of Slack or what speaks like it.")] = ""
    email: Annotated[EmailSettings | None, Field(description="Mail.")] = None
    command: Annotated[Command, Field(description="A program that gets the notice as JSON on its standard input.")] = ()
    timeout: Annotated[PositiveDuration, Field(description="For one attempt.")] = _CHANNEL.timeout_s
    deadline: Annotated[
        PositiveDuration,
        Field(description="What could not be delivered for so long is a dead letter.", examples=["1h"]),
    ] = _CHANNEL.deadline_s

    @model_validator(mode="after")
    def _one_way(self) -> ChannelSettings:
        if len([way for way in WAYS if getattr(self, way)]) != 1:
            raise ValueError("give exactly one of webhook, slack, email and command")
        if (self.secret or self.headers) and not self.webhook:
            raise ValueError("`secret` and `headers` belong to a webhook")
        return self

    def value(self, name: str) -> Channel:
        mail = self.email
        return Channel(
            name=name,
            webhook=self.webhook,
            secret=self.secret,
            headers=self.headers,
            slack=self.slack,
            mail_to=mail.to if mail else (),
            mail_from=mail.sender if mail else "",
            server=mail.server if mail else "",
            user=mail.user if mail else "",
            password=mail.password if mail else "",
            command=self.command,
            timeout_s=self.timeout,
            deadline_s=self.deadline,
        )


class RouteSettings(Settings):
    to: Annotated[tuple[Name, ...], BeforeValidator(_several), Field(min_length=1, description="Names of channels.")]
    what: Annotated[
        tuple[Topic, ...],
        BeforeValidator(_several),
        Field(description="`changes`, `rollouts`, `alerts`, `incidents`. Left out: all.", examples=[["alerts"]]),
    ] = ()
    services: Annotated[
        tuple[Name, ...], BeforeValidator(_several), Field(description="Only about these. Left out: about all.")
    ] = ()
    severity: Annotated[
        tuple[Severity, ...],
        BeforeValidator(_several),
        Field(description="Of alerts and incidents. Left out: each.", examples=[["P0", "P1"]]),
    ] = ()
    labels: Annotated[dict[str, str], Field(description="Labels that alerts must have.")] = Field(default_factory=dict)

    def value(self) -> NotifyRoute:
        return NotifyRoute(
            to=self.to, what=self.what, services=self.services, severity=self.severity, labels=self.labels
        )


class NotifySettings(Settings):
    channels: Annotated[dict[Name, ChannelSettings], Field(min_length=1, description="Ways to somebody, by name.")]
    routes: Annotated[
        tuple[RouteSettings, ...], Field(description="Which notices go where. Left out: everything to every channel.")
    ] = ()

    @model_validator(mode="after")
    def _known_channels(self) -> NotifySettings:
        for name in (name for route in self.routes for name in route.to):
            if name not in self.channels:
                raise ValueError(f'there is no channel "{name}"; there are: {", ".join(self.channels)}')
        return self

    def value(self) -> NotifyPolicy:
        return NotifyPolicy(
            channels=tuple(channel.value(name) for name, channel in self.channels.items()),
            routes=tuple(route.value() for route in self.routes),
        )
