"""A real systemd for tests: a user's manager in a mount namespace of its own, where it finds an empty /run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = Path("/lib/systemd/systemd")
PACKAGE = "systemd is not installed: apt-get install -y --no-install-recommends systemd"
PATIENCE_S = 40.0
BOOT = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec /lib/systemd/systemd --user"


class Systemd:
    """`with Systemd() as systemd: systemd.install("name", unit); systemd.control("start", "name")`."""

    def __enter__(self) -> Systemd:
        assert BINARY.exists(), PACKAGE
        self.folder = Path(tempfile.mkdtemp(prefix="g-sd-"))
        self.runtime = self.folder / "run"
        self.units = self.folder / "config/systemd/user"
        self.runtime.mkdir(mode=0o700)
        self.units.mkdir(parents=True)
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }
        alone = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
        self._log = (self.folder / "log").open("wb")
        self._manager = subprocess.Popen(
            [*alone, "sh", "-c", BOOT],
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )
        self.until(lambda: (self.runtime / "systemd/private").exists(), "the manager listens")
        return self

    def __exit__(self, *_: object) -> None:
        for unit in self.units.glob("*.service"):
            subprocess.run(self._systemctl("stop", unit.stem), env=self._environment, check=False, capture_output=True)
        self._manager.send_signal(signal.SIGTERM)
        try:
            self._manager.wait(PATIENCE_S)
        finally:
            self._manager.kill()
            self._manager.wait()
            self._log.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def install(self, name: str, unit: str) -> None:
        (self.units / f"{name}.service").write_text(unit)
        self.control("daemon-reload")

    def control(self, *words: str) -> str:
        """`systemctl --user`. Raises AssertionError with what it said when it fails."""
        done = subprocess.run(
            self._systemctl(*words), env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"systemctl {' '.join(words)}: {done.stderr}\n{self.log}"
        return done.stdout

    def shown(self, name: str, of: str) -> str:
        return self.control("show", "--value", "--property", name, of).strip()

    @property
    def log(self) -> str:
        self._log.flush()
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def _systemctl(self, *words: str) -> list[str]:
        return ["systemctl", "--user", "--no-pager", *words]

    def until(self, holds: object, what: str) -> None:
        assert callable(holds)
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert self._manager.poll() is None, f"systemd has ended: {self.log}"
            assert time.monotonic() < deadline, f"waited in vain until {what}: {self.log}"
            time.sleep(0.05)


def python_unit(unit: str, folder: Path, log: Path) -> str:
    """The exported unit, run as here: from `folder`, with its output in a file."""
    more = [
        f"StandardOutput=append:{log}",
        f"StandardError=append:{log}",
        f"Environment=PYTHONPATH={':'.join(sys.path)}",
    ]
    return unit.replace("[Service]\n", "\n".join(["[Service]", *more, ""]))
