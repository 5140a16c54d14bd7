"""The demonstration: run a shop, change it, break it, and count what its customers lose. `make demo` runs it.

Everything is done by the command line, as a user would; the customers are `gapless load`. Exit status: 0 when no
request was lost that a healthy release could have answered and the shop's books agree, 1 otherwise, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from rich.console import Console  # noqa: E402

from showcase import ledger, releases  # noqa: E402
from showcase.buyers import Buyers  # noqa: E402
from showcase.command import Failed, Gapless  # noqa: E402
from showcase.story import Stage, play  # noqa: E402
from showcase.summary import Story, tell  # noqa: E402
from showcase.verdict import judge  # noqa: E402
from showcase.view import View  # noqa: E402

LISTEN = "127.0.0.1:8080"
RATE = 40.0
"""Purchases per second. Each makes three requests and six transactions, and two cores must do for all of it."""
CONNECTIONS = 16
BAD = frozenset({releases.BAD.version})
INTERRUPTED = 130
PLAIN_WIDTH = 120
"""Columns where there is no terminal: the summary's table fits."""


def main() -> int:
    options = _options()
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    root = Path(tempfile.mkdtemp(prefix="gapless-", dir=_short_temporary()))
    state = options.state.absolute() if options.state else root / "state"
    listen = _free(options.listen, console)
    view = View(console, BAD)
    gapless = Gapless(HERE / "gapless.yaml", state, listen, view.say)
    stage = Stage(gapless, Buyers(listen, options.rate, CONNECTIONS, view.record), view, root / "releases")
    code = 1
    try:
        code = asyncio.run(_run(stage, console))
    finally:
        if options.keep or code == 1:
            console.print(f"kept: {state} (logs in {state / 'logs'})", soft_wrap=True, highlight=False)
        else:
            shutil.rmtree(root, ignore_errors=True)
    return code


async def _run(stage: Stage, console: Console) -> int:
    playing = asyncio.ensure_future(_play(stage))
    interrupts = _Interrupts(playing, stage)
    async with _drawing(stage.view), interrupts.caught():
        await asyncio.wait([playing])
    if playing.cancelled() or interrupts.times:
        return INTERRUPTED
    playing.result()
    story = _story(stage)
    tell(story, console)
    return 0 if story.good else 1


async def _play(stage: Stage) -> None:
    """The story, and whatever happens in it, everything that was started is ended."""
    try:
        await play(stage)
    except Failed as error:
        stage.surprise(str(error))
    finally:
        await stage.buyers.stop()
        await stage.gapless.down()


def _story(stage: Stage) -> Story:
    records = stage.buyers.records
    told = {record.uuid for record in records if not record.cause}
    try:
        audit = ledger.audit(ledger.read(stage.gapless.state / "data"), told)
    except OSError as error:
        stage.surprise(str(error))
        audit = None
    return Story(
        records=records,
        events=stage.events,
        verdict=judge(records, stage.events, BAD),
        audit=audit,
        decision=stage.decision,
        surprises=stage.surprises,
    )


class _Interrupts:
    """Ctrl-C ends the story in order; a second one hurries."""

    def __init__(self, playing: asyncio.Future[None], stage: Stage) -> None:
        self.times = 0
        self._playing = playing
        self._stage = stage

    @contextlib.asynccontextmanager
    async def caught(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        self.times += 1
        if self.times == 1:
            self._stage.view.say("ending everything (Ctrl-C again: at once)")
            self._playing.cancel()
        else:
            self._stage.gapless.hurry()


@contextlib.asynccontextmanager
async def _drawing(view: View) -> AsyncIterator[None]:
    drawing = asyncio.create_task(view.run())
    try:
        yield
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--state", type=Path, help="state directory (default: a new temporary one)")
    parser.add_argument("--listen", type=_address, default=LISTEN, help=f"the gateway's address (default: {LISTEN})")
    parser.add_argument("--rate", type=float, default=RATE, help=f"purchases per second (default: {RATE:g})")
    parser.add_argument("--keep", action="store_true", help="keep the state directory afterwards")
    return parser.parse_args()


def _address(text: str) -> str:
    """`host:port`, or a port of this machine alone."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: write it like {LISTEN}")
    return f"{host or '127.0.0.1'}:{port}"


def _short_temporary() -> str:
    """The paths of Unix sockets must be short."""
    place = tempfile.gettempdir()
    return place if len(place) <= 30 else "/tmp"


def _free(listen: str, console: Console) -> str:
    """The address, or one with another port when somebody else has it."""
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            probe.bind((host, 0))
            console.print(f"port {port} is taken: the gateway will listen on {probe.getsockname()[1]}", highlight=False)
        return f"{host}:{probe.getsockname()[1]}"


if __name__ == "__main__":
    sys.exit(main())
