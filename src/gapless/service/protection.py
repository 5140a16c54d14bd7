"""`protect:` of gapless.yaml in a running instance, changed while it works.

It begins with what the environment says, and follows the routing table afterwards. Rules are taken whole or not at all:
wrong ones change nothing, and the log says why. Windows, tokens and counters go on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gapless.core.errors import GaplessError
from gapless.core.model import RouteTable
from gapless.resilience.guards import Guards, differences
from gapless.service.asgi import App
from gapless.service.protect import Protected
from gapless.service.protect_rules import Rules, guarded, rules_of

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.protect")


class Protection:
    """`app`: the wrapped app behind the guards of `service`. `env`: where `${NAME}` in rules comes from; by default the
    environment of this process."""

    def __init__(self, service: str, app: App, world: World, env: Mapping[str, str] | None = None) -> None:
        self.guards = Guards(world)
        self.app = Protected(app, [])
        self._service = service
        self._env = os.environ if env is None else env
        self._rules = Rules()

    def take(self, rules: Rules) -> None:
        """These rules from the next request on. Raises ConfigError and changes nothing."""
        wanted = guarded(self._service, rules, self._env)
        before = {each.name: each.policies for each in self.guards}
        changed = self.guards.replace({each.guard: each.policies for each in wanted})
        self.app.put([(each.place, self.guards.get(each.guard)) for each in wanted])
        self._rules = rules
        changes = {name: differences(before.get(name, ()), self.guards.get(name).policies) for name in changed}
        if before and changes:
            _log.info("protect changed: %s", changes)

    def follow(self, table: RouteTable) -> None:
        """What the control plane says now, if it speaks of this service at all."""
        found = next((each for each in table.services if each.service == self._service), None)
        if found is None or (rules := rules_of(found)) == self._rules:
            return
        try:
            self.take(rules)
        except GaplessError as error:
            _log.warning("protect stays as it is: %s", error)
            self._rules = rules  # told once

    def close(self) -> None:
        self.guards.close()
