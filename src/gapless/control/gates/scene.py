"""What a gate is run with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gapless.core.model import Address
from gapless.fleet.launch import fill

MARK = "GAPLESS_GATE"
"""In the environment of everything that a gate starts: whoever finds it left behind may end it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """`address`: of a ready instance of the new release, `stable`: of the stable one; None where there is none."""

    service: str
    release: str
    base: Path
    """The directory of gapless.yaml: files and commands are relative to it."""
    scratch: Path
    """A directory for the reports and the output of commands."""
    mark: str
    """Names this run among all others on this machine."""
    code: Path | None = None
    """Where the release's files are."""
    address: Address | None = None
    stable: Address | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}" if self.address else ""

    def filled(self, words: tuple[str, ...], report: Path) -> list[str]:
        """A command with what its braces stand for."""
        values = {
            "url": self.url,
            "address": str(self.address or ""),
            "release": self.release,
            "code": str(self.code or self.base),
            "report": str(report),
        }
        return [fill(word, values) for word in words]

    def environment(self, report: Path) -> Mapping[str, str]:
        """What a command is told beside its words."""
        return {
            "GAPLESS_SERVICE": self.service,
            "GAPLESS_RELEASE": self.release,
            "GAPLESS_URL": self.url,
            "GAPLESS_CODE": str(self.code or self.base),
            "GAPLESS_REPORT": str(report),
            MARK: self.mark,
        }


def mark_of(state: Path, service: str, rollout: int, gate: str) -> str:
    """Begins with the state directory, so that a control plane knows its own."""
    return f"{state}:{service}/{rollout}/{gate};"
