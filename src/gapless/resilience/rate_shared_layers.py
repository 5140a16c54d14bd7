"""The layers of a rate that processes share."""

from __future__ import annotations

from gapless.core.errors import ConfigError
from gapless.resilience.policy import Binding, Layer
from gapless.resilience.rate import Rate


def layer_of(policy: Rate, binding: Binding) -> Layer:
    raise ConfigError(f"{binding.guard}: a shared rate is not available yet", "Leave out `shared`.")
