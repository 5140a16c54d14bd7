"""What an application prints on a full disk is lost, and nothing else."""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
from typing import Any

import pytest

from gapless.server.worker import outputs


@pytest.mark.parametrize("unbuffered", [True, False])
def test_a_print_on_a_full_disk_loses_its_line_only_and_the_loss_is_told(
    unbuffered: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`room`: how many bytes the disk takes."""
    room = 8
    write = os.write

    def limited(descriptor: int, data: Any) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(room, len(data))
        room -= taken
        return write(descriptor, data[:taken])

    with tempfile.TemporaryFile("wb", buffering=0 if unbuffered else -1) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8", write_through=unbuffered)  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        outputs.forgive()
        monkeypatch.setattr(os, "write", limited)
        assert sys.stdout.fileno() == file.fileno()
        assert not sys.stdout.isatty()
        print("first ü", flush=True)  # noqa: T201
        print("second", flush=True)  # noqa: T201
        assert caplog.text == ""
        room = 1000
        print("third", flush=True)  # noqa: T201
        monkeypatch.setattr(os, "write", write)
        assert os.pread(file.fileno(), 100, 0) == "first üthird\n".encode()
        assert caplog.messages == ["8 bytes of stdout were dropped because its disk was full"]
        stream.detach()


def test_other_trouble_is_told_as_ever() -> None:
    outlet, inlet = os.pipe()
    os.close(outlet)
    with pytest.raises(BrokenPipeError):
        outputs.Output(inlet, "stdout").write(b"nobody reads")
    os.close(inlet)
