"""Our own registry as a Consul for the store: a process, with a store of its own on this disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.ports import free_port


class ConsulServer:
    """`kill` keeps its data, and `start` goes on with it at the same port."""

    def __init__(self, *options: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="g-consul-"))
        self.port = free_port()
        self._argv = [sys.executable, "-m", "gapless", "registry", "--json", "--http", f"127.0.0.1:{self.port}"]
        self._argv += options or ["--store", f"sqlite:{self._folder}/registry.db"]
        self._process: subprocess.Popen[str] | None = None
        self._stores = 0

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv, cwd=self._folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._process.stdout.close()
        assert json.loads(line)["ready"], line

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> ConsulServer:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def address(self) -> str:
        """Of a store that nobody has used before."""
        self._stores += 1
        return f"consul://127.0.0.1:{self.port}/test-{self._stores}/"
