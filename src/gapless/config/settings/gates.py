"""`gates:` and `mirror:` of a rollout."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.quantities import PositiveDuration, Share, Step
from gapless.config.settings.fields import Command, Name, route_path, text
from gapless.core.masks import Masks
from gapless.core.model.gates import (
    MIRROR_GATE,
    CommandGate,
    ContractGate,
    CoverageGate,
    Gate,
    GateKind,
    MirrorRule,
    SecurityGate,
    SmokeGate,
    SuiteGate,
    Waiver,
)

_GATE, _MIRROR = Gate(name=""), MirrorRule()
_COVERAGE, _SECURITY, _SMOKE, _CONTRACT = CoverageGate(), SecurityGate(), SmokeGate(), ContractGate()
KINDS = tuple(kind.value for kind in GateKind if kind is not GateKind.MIRROR)
PERCENT = "0%"


def as_run(value: Any) -> Any:
    """The words alone mean no more than `run`."""
    return value if isinstance(value, dict) else {"run": value}


def as_share(value: Any) -> Any:
    return value if isinstance(value, dict) else {"share": value}


def _method(value: Any) -> str:
    method = text(value)
    if not method.isalpha() or method != method.upper():
        raise ValueError("a method is written in capitals, as GET")
    return method


Method = Annotated[str, BeforeValidator(_method)]
Header = Annotated[str, BeforeValidator(lambda value: text(value).lower()), Field(min_length=1)]
Limit = Annotated[int, Field(ge=0)]
Words = Annotated[Command, Field(min_length=1)]


class CommandSettings(Settings):
    run: Annotated[
        Words,
        Field(
            description="Program and arguments, started beside gapless.yaml; 0 passes. `{url}`, `{address}`, "
            "`{release}` and `{code}` are replaced.",
            examples=[["./check-migrations", "{url}"]],
        ),
    ]
    cached: Annotated[bool, Field(description="A release that has passed need not pass again.")] = False

    def value(self) -> CommandGate:
        return CommandGate(argv=self.run, cached=self.cached)


class SuiteSettings(Settings):
    run: Annotated[
        Words,
        Field(
            description="As of a command; it writes a JUnit report to `{report}`.",
            examples=[["python", "-m", "pytest", "tests", "--junitxml={report}"]],
        ),
    ]
    at_least: Annotated[int, Field(ge=1, description="Tests that must have run.")] = 1
    cached: Annotated[bool, Field(description="A release that has passed need not pass again.")] = True

    def value(self) -> SuiteGate:
        return SuiteGate(argv=self.run, at_least=self.at_least, cached=self.cached)


class CoverageSettings(Settings):
    file: Annotated[
        str, Field(min_length=1, description="coverage.xml, or coverage.py's JSON.", examples=["coverage.xml"])
    ]
    at_least: Annotated[
        Share, Field(description="Of the lines.", examples=["80%"], json_schema_extra={"default": "80%"})
    ] = _COVERAGE.at_least
    max_age: Annotated[PositiveDuration, Field(description="An older file refuses.")] = _COVERAGE.max_age_s

    def value(self) -> CoverageGate:
        return CoverageGate(file=self.file, at_least=self.at_least, max_age_s=self.max_age)


class WaiverSettings(Settings):
    id: Annotated[str, BeforeValidator(text), Field(min_length=1, description="Of the rule or the advisory.")]
    until: Annotated[date, Field(description="The last day on which it is permitted.", examples=["2027-01-31"])]
    why: Annotated[str, Field(description="For the change log.")] = ""

    def value(self) -> Waiver:
        after = datetime(self.until.year, self.until.month, self.until.day, tzinfo=UTC) + timedelta(days=1)
        return Waiver(id=self.id, until_at=after.timestamp(), why=self.why)


class SecuritySettings(Settings):
    file: Annotated[
        str,
        Field(min_length=1, description="SARIF, or the JSON of bandit, pip-audit or trivy.", examples=["scan.sarif"]),
    ]
    critical: Annotated[Limit | None, Field(description="Findings permitted; null: any number.")] = _SECURITY.critical
    high: Annotated[Limit | None, Field(description="Likewise.")] = _SECURITY.high
    medium: Annotated[Limit | None, Field(description="Likewise.")] = _SECURITY.medium
    low: Annotated[Limit | None, Field(description="Likewise.")] = _SECURITY.low
    unknown: Annotated[Limit | None, Field(description="Those without a severity, as pip-audit's.")] = _SECURITY.unknown
    waivers: Annotated[
        tuple[WaiverSettings, ...],
        Field(
            description="Findings that are permitted until a day.", examples=[[{"id": "B101", "until": "2027-01-31"}]]
        ),
    ] = ()
    max_age: Annotated[PositiveDuration, Field(description="An older file refuses.")] = _SECURITY.max_age_s

    def value(self) -> SecurityGate:
        return SecurityGate(
            file=self.file,
            critical=self.critical,
            high=self.high,
            medium=self.medium,
            low=self.low,
            unknown=self.unknown,
            waivers=tuple(waiver.value() for waiver in self.waivers),
            max_age_s=self.max_age,
        )


class SmokeSettings(Settings):
    path: Annotated[str, BeforeValidator(lambda value: route_path(text(value))), Field(description="Asked by GET.")] = (
        "/"
    )
    rate: Annotated[float, Field(gt=0, le=1_000, description="Requests per second.")] = _SMOKE.rate
    for_: Annotated[PositiveDuration, Field(alias="for", description="How long.", examples=["10s"])] = _SMOKE.for_s
    p99: Annotated[PositiveDuration, Field(description="A slower p99 refuses.", examples=["300ms"])] = _SMOKE.p99_s
    max_lost: Annotated[
        Share, Field(description="Of requests lost or answered with an error.", json_schema_extra={"default": PERCENT})
    ] = _SMOKE.max_lost
    connections: Annotated[int, Field(ge=1, le=256, description="At most.")] = _SMOKE.connections

    def value(self) -> SmokeGate:
        return SmokeGate(
            path=self.path,
            rate=self.rate,
            for_s=self.for_,
            p99_s=self.p99,
            max_lost=self.max_lost,
            connections=self.connections,
        )


class ContractSettings(Settings):
    spec: Annotated[
        str,
        Field(min_length=1, description="OpenAPI document: a path to ask an instance for, or a file (JSON or YAML)."),
    ] = _CONTRACT.spec
    before: Annotated[
        str, Field(description="That of the stable release. Left out: what a stable instance answers at `spec`.")
    ] = ""
    allow: Annotated[
        tuple[str, ...], Field(description="Breaking changes to permit: those that contain one of these texts.")
    ] = ()

    def value(self) -> ContractGate:
        return ContractGate(spec=self.spec, before=self.before, allow=self.allow)


class GateSettings(Settings):
    name: Annotated[Name | None, Field(description="Its name; left out: its kind.")] = None
    limit: Annotated[PositiveDuration, Field(description="A gate that takes longer refuses.")] = _GATE.limit_s
    command: Annotated[CommandSettings | None, BeforeValidator(as_run), Field(description="Run a program.")] = None
    tests: Annotated[SuiteSettings | None, BeforeValidator(as_run), Field(description="Run tests.")] = None
    coverage: Annotated[CoverageSettings | None, Field(description="Read a coverage file.")] = None
    security: Annotated[SecuritySettings | None, Field(description="Read a scan report.")] = None
    smoke: Annotated[SmokeSettings | None, Field(description="Load a new instance.")] = None
    contract: Annotated[ContractSettings | None, Field(description="Check answers against OpenAPI.")] = None

    @model_validator(mode="after")
    def _one_kind(self) -> GateSettings:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a gate is one of {', '.join(KINDS)}; this one is {' and '.join(given) or 'none'}")
        return self

    def value(self) -> Gate:
        given = {kind: found.value() for kind in KINDS if (found := getattr(self, kind)) is not None}
        return Gate(name=self.name or next(iter(given)), limit_s=self.limit, **given)


def named(gates: tuple[GateSettings, ...]) -> tuple[GateSettings, ...]:
    """Raises ValueError when two have the same name."""
    names = [gate.value().name for gate in gates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two gates are called {twice[0]}; give each a `name`")
    if MIRROR_GATE in names:
        raise ValueError(f"{MIRROR_GATE} is the name of the mirror; choose another one")
    return gates


def _mask(value: str) -> str:
    Masks.of([value])
    return value


class CompareSettings(Settings):
    ignore: Annotated[
        tuple[Annotated[str, AfterValidator(_mask), Field(min_length=1)], ...],
        Field(description="What may differ: JSON paths and names of headers.", examples=[["$.served_at", "etag"]]),
    ] = ()


def as_compare(value: Any) -> Any:
    words: dict[str, Any] = {"false": None, "true": {}}
    return value if isinstance(value, dict) else words.get(str(value).lower(), value)


class MirrorSettings(Settings):
    share: Annotated[
        Step, Field(description="Of the requests.", examples=["10%"], json_schema_extra={"default": "10%"})
    ] = _MIRROR.share
    methods: Annotated[
        tuple[Method, ...],
        Field(min_length=1, description="Those that are mirrored. The effects of unsafe ones happen twice."),
    ] = _MIRROR.methods
    credentials: Annotated[
        tuple[Header, ...], Field(description="Headers that are left out of mirrored requests; `[]` leaves none out.")
    ] = _MIRROR.strip
    compare: Annotated[
        CompareSettings | None,
        BeforeValidator(as_compare),
        Field(description="Compare with what a stable instance answers; `false`: look at status and latency only."),
    ] = Field(default_factory=CompareSettings)
    for_: Annotated[PositiveDuration, Field(alias="for", description="The least time.", examples=["30s"])] = (
        _MIRROR.for_s
    )
    samples: Annotated[int, Field(ge=1, description="Answers that must have been compared.")] = _MIRROR.samples
    max_difference: Annotated[
        Share, Field(description="Of the answers that may differ.", json_schema_extra={"default": "0.5%"})
    ] = _MIRROR.max_difference
    max_p99_ratio: Annotated[float, Field(gt=1, description="A p99 so many times the stable release's refuses.")] = (
        _MIRROR.max_p99_ratio
    )
    patience: Annotated[PositiveDuration, Field(description="Without enough requests for so long it refuses.")] = (
        _MIRROR.patience_s
    )
    while_shifting: Annotated[bool, Field(description="Go on while users move, and roll back for differences.")] = False

    def value(self) -> MirrorRule:
        return MirrorRule(
            share=self.share,
            methods=self.methods,
            strip=self.credentials,
            ignore=self.compare.ignore if self.compare else (),
            compare=self.compare is not None,
            for_s=self.for_,
            samples=self.samples,
            max_difference=self.max_difference,
            max_p99_ratio=self.max_p99_ratio,
            patience_s=self.patience,
            while_shifting=self.while_shifting,
        )


class Preflight(StrEnum):
    WARN = "warn"
    BLOCK = "block"


class GatingSettings(Settings):
    """The part of `rollout:` that comes before users do."""

    gates: Annotated[
        tuple[GateSettings, ...],
        AfterValidator(named),
        Field(description="What a release must pass once its instances are ready, before users meet it."),
    ] = ()
    mirror: Annotated[
        MirrorSettings | None,
        BeforeValidator(as_share),
        Field(
            description="Send a share of the requests to the new release as well, before users meet it.",
            examples=["10%"],
        ),
    ] = None
    preflight: Annotated[
        Preflight, Field(description="`block`: a high risk in `gapless preflight` refuses a deploy.")
    ] = Preflight.WARN

    def gating(self) -> dict[str, Any]:
        """The fields of a RolloutPolicy that are ours."""
        return {
            "gates": tuple(gate.value() for gate in self.gates),
            "mirror": self.mirror.value() if self.mirror else None,
            "preflight_blocks": self.preflight is Preflight.BLOCK,
        }
