"""What a new release must pass before a user meets it: gates, the mirror, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SAFE_METHODS = ("GET", "HEAD")
"""Asked once more they change nothing (RFC 9110 §9.2.1)."""
CREDENTIALS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token", "x-csrf-token")
"""Headers that the new release does not get with a mirrored request."""
MIRROR_GATE = "mirror"
"""The name under which the result of the mirror is kept."""
DAY_S = 86_400.0


class GateKind(StrEnum):
    COMMAND = "command"
    TESTS = "tests"
    COVERAGE = "coverage"
    SECURITY = "security"
    SMOKE = "smoke"
    CONTRACT = "contract"
    MIRROR = "mirror"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandGate:
    """A program that ends with 0 when all is well. Words may have `{url}`, `{address}`, `{release}`, `{code}`."""

    argv: tuple[str, ...] = ()
    cached: bool = False
    """Whether a release that has passed once need not pass again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteGate:
    """A test run that writes a JUnit report to `{report}`; other words as in a command."""

    argv: tuple[str, ...] = ()
    at_least: int = 1
    """Tests that must have run: an empty run proves nothing."""
    cached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageGate:
    """The file of coverage.py: coverage.xml or JSON."""

    file: str = ""
    at_least: float = 0.8
    """Of the lines, 0…1."""
    max_age_s: float = DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A finding that is known and permitted until a moment."""

    id: str
    until_at: float
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityGate:
    """A scan report: SARIF, or the JSON of bandit, pip-audit or trivy. Findings beyond a limit refuse the release; None
    is no limit."""

    file: str = ""
    critical: int | None = 0
    high: int | None = 0
    medium: int | None = None
    low: int | None = None
    unknown: int | None = 0
    """Findings whose report gives no severity, as pip-audit's."""
    waivers: tuple[Waiver, ...] = ()
    max_age_s: float = DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeGate:
    """A load against one new instance, on a schedule that does not wait for answers."""

    path: str = "/"
    rate: float = 20.0
    for_s: float = 10.0
    p99_s: float = 1.0
    max_lost: float = 0.0
    """Share (0…1) of the requests that may be lost or answered with an error."""
    connections: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractGate:
    """The answers of a new instance against its OpenAPI document, and that document against the stable release's."""

    spec: str = "/openapi.json"
    """A path to ask the instance for, or a file when it does not begin with `/`; with `before` likewise."""
    before: str = ""
    """The document of the stable release; empty: what a stable instance answers at `spec`."""
    allow: tuple[str, ...] = ()
    """Breaking changes that are permitted: any that contains one of these texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One gate; exactly one of its kinds is set. `limit_s`: a gate that takes longer is ended and refuses."""

    name: str
    limit_s: float = 300.0
    command: CommandGate | None = None
    tests: SuiteGate | None = None
    coverage: CoverageGate | None = None
    security: SecurityGate | None = None
    smoke: SmokeGate | None = None
    contract: ContractGate | None = None

    @property
    def kind(self) -> GateKind:
        kinds = (k for k in GateKind if k is not GateKind.MIRROR and getattr(self, k.value) is not None)
        return next(kinds, GateKind.COMMAND)

    @property
    def cached(self) -> bool:
        """Whether its pass holds for the release, whenever it is deployed again. Files, loads and contracts are looked
        at anew: they depend on more than the release."""
        return bool((self.command and self.command.cached) or (self.tests and self.tests.cached))


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRule:
    """A share of the requests is sent to the new release as well, and its answers are compared."""

    share: int = 1_000
    """In buckets of 10,000."""
    methods: tuple[str, ...] = SAFE_METHODS
    strip: tuple[str, ...] = CREDENTIALS
    ignore: tuple[str, ...] = ()
    """What may differ: JSON paths (`$.served_at`, `$.items[*].etag`) and names of headers."""
    compare: bool = True
    """Ask a stable instance as well, and compare; else only status and latency of the new release are looked at."""
    for_s: float = 30.0
    """The least time."""
    samples: int = 100
    """Answers that must have been compared."""
    max_difference: float = 0.005
    """Share (0…1) of the answers that may differ."""
    max_p99_ratio: float = 3.0
    patience_s: float = 1_800.0
    """Without enough requests for so long the release is refused: no evidence never promotes."""
    while_shifting: bool = False
    """Go on while users move."""

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Methods whose effects the mirror doubles."""
        return tuple(m for m in self.methods if m not in (*SAFE_METHODS, "OPTIONS"))


class GateState(StrEnum):
    RUNNING = "running"
    PASSED = "passed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What became of a gate in a rollout."""

    service: str
    rollout: int
    name: str
    kind: GateKind
    release: str
    digest: str
    """Of the release's content and settings."""
    definition: str
    """Of the gate: a cached pass holds for this definition only."""
    state: GateState = GateState.RUNNING
    started_at: float = 0.0
    ended_at: float = 0.0
    reason: str = ""
    output: str = ""
    """The last lines, bounded."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    """Answers that differed, without their values."""
    cached_from: int = 0
    """The rollout whose pass this is; 0: it was run."""
