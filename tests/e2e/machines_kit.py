"""Machines for tests: network namespaces of the test's own, each with two wires to the one in the middle, so that the
way to the control plane can be cut and that to the instances not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

DATA, CONTROL = "10.213.1", "10.213.2"
"""Networks that exist in these namespaces only."""
NAMES = {"data": DATA, "control": CONTROL}
ROOT = "this test makes network namespaces and wires between them, which needs root: run it as root"
PACKAGE = "there is no `ip`: apt-get install -y --no-install-recommends iproute2"


class Machine:
    """A namespace. `number`: the last part of its addresses."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number
        self.space = f"gapless-{os.getpid()}-{name}"

    @property
    def inside(self) -> tuple[str, ...]:
        """Before a command, which then keeps its pid."""
        return ("ip", "netns", "exec", self.space)

    def address(self, network: str = DATA) -> str:
        return f"{network}.{self.number}"

    def ip(self, *words: str) -> None:
        ip("-n", self.space, *words)


class Machines:
    """`middle`, with a bridge for each network, and those around it."""

    def __init__(self, around: int) -> None:
        self.middle = Machine("middle", 1)
        self.around = tuple(Machine(f"edge{number}", number) for number in range(2, around + 2))

    def make(self) -> None:
        assert os.geteuid() == 0, ROOT
        assert shutil.which("ip"), PACKAGE
        for machine in (self.middle, *self.around):
            ip("netns", "add", machine.space)
            machine.ip("link", "set", "lo", "up")
        for wire, network in NAMES.items():
            self.middle.ip("link", "add", wire, "type", "bridge")
            self._open(self.middle, wire, network)
            for machine in self.around:
                end = f"{wire}{machine.number}"
                machine.ip("link", "add", wire, "type", "veth", "peer", "name", end, "netns", self.middle.space)
                self._open(machine, wire, network)
                self.middle.ip("link", "set", end, "master", wire, "up")

    def _open(self, machine: Machine, wire: str, network: str) -> None:
        machine.ip("address", "add", f"{machine.address(network)}/24", "dev", wire)
        machine.ip("link", "set", wire, "up")

    def cut(self, machine: Machine, wire: str) -> None:
        self.middle.ip("link", "set", f"{wire}{machine.number}", "down")

    def mend(self, machine: Machine, wire: str) -> None:
        self.middle.ip("link", "set", f"{wire}{machine.number}", "up")

    def remove(self) -> None:
        for machine in (*self.around, self.middle):
            with suppress(subprocess.CalledProcessError):  # it may not have come so far
                ip("netns", "delete", machine.space)


def ip(*words: str) -> None:
    """Raises CalledProcessError, whose words pytest shows."""
    subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def machines(around: int) -> Iterator[Machines]:
    found = Machines(around)
    try:
        found.make()
        yield found
    finally:
        found.remove()
