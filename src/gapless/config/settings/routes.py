"""`routes:` of a service."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from gapless.config.base import Settings
from gapless.config.expressions import expression
from gapless.config.guards import ProtectSettings
from gapless.config.quantities import PositiveDuration
from gapless.config.settings.fields import route_path, text
from gapless.config.settings.gateway import CorsSettings
from gapless.core.model import Condition, PathKind, Retries, Route, ValueKind
from gapless.core.model.routing import IDEMPOTENT

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_]([-a-z0-9_.]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_RETRIES = Retries()


def as_route(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _as_condition(value: Any) -> Any:
    return value if isinstance(value, dict) else {"exact": text(value)}


def _host(value: Any) -> str:
    host = text(value).lower()
    if not _HOST.fullmatch(host):
        raise ValueError('not a host: write "shop.example.com", "*.example.com", or "*" for any; without a port')
    return host


def token(value: Any) -> str:
    """The name of a header or a cookie, or a method (RFC 9110 §5.6.2). Raises ValueError."""
    if not _TOKEN.fullmatch(text(value)):
        raise ValueError("not a name of a header or a cookie")
    return text(value)


def header_name(value: Any) -> str:
    """Lower case. Raises ValueError."""
    name = token(value).lower()
    if name == "host":
        raise ValueError("the host is matched by `host`")
    if name.startswith("x-envoy-"):
        raise ValueError("the gateway removes what clients send of that name")
    return name


def _method(value: Any) -> str:
    return token(value).upper()


def _idempotent(value: Any) -> str:
    method = _method(value)
    if method not in IDEMPOTENT:
        raise ValueError(
            f"only {', '.join(IDEMPOTENT)} may be sent twice (RFC 9110 §9.2.2); "
            "others are, when they carry an Idempotency-Key"
        )
    return method


def _expression(value: Any) -> str:
    return expression(text(value))


Expression = Annotated[str, BeforeValidator(_expression)]
_OneOrMore = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
_MethodsSchema = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


class ConditionSettings(Settings):
    """What a value must be. A plain text is short for `exact`."""

    exact: Annotated[str | None, BeforeValidator(text), Field(description="It is this.")] = None
    prefix: Annotated[str | None, BeforeValidator(text), Field(description="It begins so.")] = None
    regex: Annotated[Expression | None, Field(description="All of it fits an expression (RE2).")] = None
    present: Annotated[bool | None, Field(description="`true`: it is there; `false`: it is not.")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set - {"invert"}) != 1:
            raise ValueError('give one of exact, prefix, regex and present, or the value alone, for instance "gold"')
        return self

    def value(self, name: str, invert: bool = False) -> Condition:
        if self.present is not None:
            return Condition(name=name, kind=ValueKind.PRESENT, invert=invert is self.present)
        kind = next(kind for kind in ValueKind if getattr(self, kind) is not None)
        return Condition(name=name, kind=kind, value=getattr(self, kind), invert=invert)


class HeaderSettings(ConditionSettings):
    invert: Annotated[bool, Field(description="Turns it round; an absent header counts as an empty one.")] = False


class RetrySettings(Settings):
    attempts: Annotated[int, Field(ge=0, le=10, description="After the first one; 0: nothing is sent again.")] = (
        _RETRIES.attempts
    )
    on: Annotated[
        tuple[Annotated[int, Field(ge=400, le=599)], ...],
        Field(description="Statuses of an answer that are repeated, too.", examples=[[502, 503]]),
    ] = _RETRIES.on
    methods: Annotated[
        tuple[Annotated[str, BeforeValidator(_idempotent)], ...],
        Field(description="What may be sent twice; always idempotent.", examples=[["GET", "HEAD"]]),
    ] = _RETRIES.methods
    keyed: Annotated[
        bool, Field(description="Requests with an `Idempotency-Key` may be sent twice, whatever the method.")
    ] = _RETRIES.keyed

    def value(self) -> Retries:
        return Retries(attempts=self.attempts, on=self.on, methods=self.methods, keyed=self.keyed)


class RouteSettings(Settings):
    path: Annotated[
        str,
        BeforeValidator(lambda value: route_path(text(value))),
        Field(description="Prefix of the path: itself, and what is below it.", examples=["/orders"]),
    ] = "/"
    exact: Annotated[
        str,
        BeforeValidator(lambda value: route_path(text(value))),
        Field(description="The whole path, instead of `path`.", examples=["/orders/new"]),
    ] = ""
    regex: Annotated[
        str,
        BeforeValidator(_expression),
        Field(description="An expression (RE2) that fits the whole path, instead of `path`.", examples=["/u/[0-9]+"]),
    ] = ""
    host: Annotated[
        str,
        BeforeValidator(_host),
        Field(description="Host name, `*.example.com`, or `*` for any.", examples=["shop.example"]),
    ] = "*"
    methods: Annotated[
        tuple[Annotated[str, BeforeValidator(_method)], ...],
        _OneOrMore,
        _MethodsSchema,
        Field(description="Only these methods.", examples=[["GET", "HEAD"]]),
    ] = ()
    headers: Annotated[
        dict[Annotated[str, BeforeValidator(header_name)], Annotated[HeaderSettings, BeforeValidator(_as_condition)]],
        Field(description="Only requests whose headers are so.", examples=[{"x-tenant": "gold"}]),
    ] = Field(default_factory=dict)
    query: Annotated[
        dict[str, Annotated[ConditionSettings, BeforeValidator(_as_condition)]],
        Field(description="Only requests with these parameters, not decoded.", examples=[{"version": "2"}]),
    ] = Field(default_factory=dict)
    timeout: Annotated[
        PositiveDuration | None,
        Field(description="Deadline for one request, retries included, instead of the service's.", examples=["5s"]),
    ] = None
    try_timeout: Annotated[
        PositiveDuration | None, Field(description="Time of each attempt. Left out: no less than all.", examples=["1s"])
    ] = None
    retries: RetrySettings = Field(default_factory=RetrySettings, description="What is sent again.")
    protect: Annotated[
        ProtectSettings | None,
        Field(description="Policies for this route; they go before the service's, policy by policy."),
    ] = None

    cors: Annotated[CorsSettings | None, Field(description="Of this route; goes before the service's.")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len({"path", "exact", "regex"} & self.model_fields_set) > 1:
            raise ValueError("give one of path, exact and regex")
        if any(each.present is False for each in self.query.values()):
            raise ValueError("a parameter of the query cannot be asked to be absent")
        if self.timeout and self.try_timeout and self.try_timeout > self.timeout:
            raise ValueError("try_timeout is longer than timeout")
        return self

    def value(self) -> Route:
        kind = PathKind.EXACT if self.exact else PathKind.REGEX if self.regex else PathKind.PREFIX
        return Route(
            path=self.exact or self.regex or self.path,
            path_kind=kind,
            host=self.host,
            methods=tuple(sorted(set(self.methods))),
            headers=tuple(each.value(name, each.invert) for name, each in sorted(self.headers.items())),
            query=tuple(each.value(name) for name, each in sorted(self.query.items())),
            protect=self.protect.value() if self.protect else None,
            cors=self.cors.value() if self.cors else None,
            timeout_s=self.timeout or 0.0,
            try_timeout_s=self.try_timeout or 0.0,
            retries=self.retries.value(),
        )
