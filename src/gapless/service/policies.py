"""The guards of a service: those of its author, and those that gapless.yaml puts before its app."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from gapless.observe.metrics import Meter
from gapless.service import carry as carrying
from gapless.service.asgi import App

if TYPE_CHECKING:
    from gapless.core.ports import World
    from gapless.discovery.directory import Directory
    from gapless.resilience.guard import Guard
    from gapless.resilience.guards import Guards
    from gapless.service.protection import Protection


class Policies:
    """Nothing is imported before it is needed."""

    def __init__(self, world: World, meter: Meter) -> None:
        self._world = world
        self._meter = meter
        self.protection: Protection | None = None
        """What gapless.yaml puts before the app."""

    @cached_property
    def guards(self) -> Guards:
        """The author's."""
        from gapless.resilience.guards import Guards
        from gapless.service.protect_metrics import observe_guards

        found = Guards(self._world)
        observe_guards(self._meter, found)
        return found

    @property
    def all(self) -> dict[str, Guards]:
        """All that there are; the names of both kinds may be the same."""
        code = {"guards": self.guards} if "guards" in self.__dict__ else {}
        return {**code, "protect": self.protection.guards} if self.protection else code

    def state(self) -> dict[str, carrying.Part]:
        """What they remember, for the process that takes this one's place."""
        return {
            f"gapless.{name}": carrying.Part(guards.dump_state, guards.load_state, carrying.GUARDS_BYTES)
            for name, guards in self.all.items()
        }

    def protect(self, service: str, app: App, rules: str, directory: Directory) -> App:
        """The app behind the policies that `rules` say, and later those of the directory. Raises ConfigError."""
        from gapless.service.protect_metrics import observe_guards
        from gapless.service.protect_rules import parse
        from gapless.service.protection import Protection

        found = self.protection = Protection(service, app, self._world)
        if rules:
            found.take(parse(rules))
        if directory.governs:
            from gapless.service.forcing import Forcing

            directory.subscribe(found.follow)
            directory.subscribe(Forcing(service, self._named, self._world).follow)
        observe_guards(self._meter, found.guards)
        return found.app

    def _named(self, name: str) -> list[Guard]:
        """Those that a name means; "" is all that gapless.yaml puts before the app."""
        if not name:
            return list(self.protection.guards) if self.protection else []
        return [guards.get(name) for guards in self.all.values() if name in guards]

    def close(self) -> None:
        for guards in self.all.values():
            guards.close()
