"""The test kit: fakes that stand in for the world, and conformance suites that the real thing passes too.

It ships with Gapless, so that an application's own tests can use it. Nothing in the product imports it. The names below
are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapless.testing.clock import FakeClock, fake_clock
    from gapless.testing.faults import fault
    from gapless.testing.registry import REGISTRY_CHECKS, RegistryRig, check_registry
    from gapless.testing.signals import SIGNALS_CHECKS, FakeSignals, SignalsRig, check_signals
    from gapless.testing.store import STORE_CHECKS, StoreRig, check_store
    from gapless.testing.world import FakeProcess, FakeWorld, Spawned

__all__ = [
    "REGISTRY_CHECKS",
    "SIGNALS_CHECKS",
    "STORE_CHECKS",
    "FakeClock",
    "FakeProcess",
    "FakeSignals",
    "FakeWorld",
    "RegistryRig",
    "SignalsRig",
    "Spawned",
    "StoreRig",
    "check_registry",
    "check_signals",
    "check_store",
    "fake_clock",
    "fault",
]

_HOMES = {
    "FakeClock": "gapless.testing.clock",
    "FakeProcess": "gapless.testing.world",
    "FakeSignals": "gapless.testing.signals",
    "FakeWorld": "gapless.testing.world",
    "REGISTRY_CHECKS": "gapless.testing.registry",
    "RegistryRig": "gapless.testing.registry",
    "SIGNALS_CHECKS": "gapless.testing.signals",
    "STORE_CHECKS": "gapless.testing.store",
    "SignalsRig": "gapless.testing.signals",
    "Spawned": "gapless.testing.world",
    "StoreRig": "gapless.testing.store",
    "check_registry": "gapless.testing.registry",
    "check_signals": "gapless.testing.signals",
    "check_store": "gapless.testing.store",
    "fake_clock": "gapless.testing.clock",
    "fault": "gapless.testing.faults",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gapless.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
