"""What the registry refuses. The sentences are those that Consul's clients know and look for."""

from __future__ import annotations

from gapless.core.errors import GaplessError


class Invalid(GaplessError):
    """What was to be registered makes no sense."""


class NotRegistered(GaplessError):
    """There is nothing of that id in the registry."""


class CommandsForbidden(Invalid):
    """Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or 'enable_local_script_checks' to true"""  # noqa: E501 - Consul's own sentence

    remedy = "Start the registry with --command-checks if whoever can register may also run commands on its machine."


def unknown_check(check: str) -> NotRegistered:
    return NotRegistered(f'Unknown check ID "{check}". Ensure that the check ID is passed, not the check name.')


def unknown_service(instance: str) -> NotRegistered:
    return NotRegistered(
        f'Unknown service ID "{instance}". Ensure that the service ID is passed, not the service name.'
    )
