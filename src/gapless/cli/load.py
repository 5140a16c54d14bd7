"""`gapless load`: the honest client, to see for yourself that a change loses nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.output import Json, emit, line, note

if TYPE_CHECKING:
    from gapless.load import Load, LoadSpec, Record, Summary

LOOK_S = 0.25
"""Time between two pictures on a terminal."""
LINE_S = 5.0
"""Time between two lines where there is no terminal: a log must stay readable."""
LOST = 1


def load_command(
    url: Annotated[str, typer.Argument(help="What to ask, like http://127.0.0.1:8080/orders.")],
    rate: Annotated[float, typer.Option(help="Requests per second that become due.")] = 50.0,
    connections: Annotated[int, typer.Option(help="Keep-alive connections, at most.")] = 16,
    length: Annotated[str, typer.Option("--for", help="How long, like 30s or 5m.")] = "30s",
    method: Annotated[str, typer.Option("--method", "-X", help="Default: GET, or POST with a body.")] = "",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'name: value'; repeat it.")] = None,
    body: Annotated[str, typer.Option(help="Text to send.")] = "",
    body_file: Annotated[Path | None, typer.Option(help="File whose text to send.")] = None,
    users: Annotated[int, typer.Option(help="Ask on behalf of so many users, ids 0 … N-1.")] = 0,
    user_header: Annotated[str, typer.Option(help="Header that carries the user id.")] = "x-user-id",
    expect: Annotated[str, typer.Option(help="Good statuses, like 200,201 or 2xx.", metavar="STATUS,…")] = "2xx,3xx",
    expect_body: Annotated[str, typer.Option(help="A good body matches this.", metavar="REGEX")] = "",
    timeout: Annotated[str, typer.Option(help="Time limit of a request, from its due time.")] = "5s",
    http2: Annotated[bool, typer.Option("--http2", help="Speak HTTP/2, in clear text.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="A new connection for each request.")] = False,
    log: Annotated[Path | None, typer.Option(help="Write one JSON line per request here.")] = None,
    json: Json = False,
) -> None:
    """Send requests at a fixed rate, retry nothing, and name the cause of each lost one.

    Latency counts from the moment when a request was due, also while it waits for a connection. {user}, {n} and {uuid}
    are replaced in URL path, headers and body. Ctrl-C ends early, with the summary.

    Exit status: 0 nothing was lost, 1 something was, 2 wrong usage.

    Example: gapless load http://127.0.0.1:8080/orders --rate 50 --for 30s --users 1000
    -H 'idempotency-key: {uuid}' -H 'content-type: application/json' --body '{"item": "lamp", "quantity": 1}'
    """
    from gapless.load.spec import Expect, LoadSpec, seconds
    from gapless.load.spec import header as pair

    text = _read(body_file) if body_file else body
    spec = LoadSpec(
        url=url,
        rate=rate,
        connections=connections,
        for_s=seconds(length),
        method=method.upper() or ("POST" if text else "GET"),
        headers=tuple(pair(line) for line in header or ()),
        body=text,
        users=users,
        user_header=user_header,
        expect=Expect.parse(expect, expect_body),
        http2=http2,
        fresh=fresh,
        timeout_s=seconds(timeout),
    )
    summary = _run(spec, log, quiet=json)
    print_summary(summary, json=json)
    raise typer.Exit(LOST if summary.lost_total else 0)


def _read(path: Path) -> str:
    from gapless.core.errors import ConfigError

    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--body-file {path} cannot be read: {error}", "Give a UTF-8 text file.") from error


def _run(spec: LoadSpec, log: Path | None, *, quiet: bool) -> Summary:
    from gapless.cli.loop import loop_factory
    from gapless.core.errors import ConfigError
    from gapless.core.world import RealWorld
    from gapless.load import Load

    spec.check()
    try:
        sink = log.open("wb", buffering=0) if log else None  # whoever follows the log sees each line at once
    except OSError as error:
        raise ConfigError(f"--log {log} cannot be written: {error}", "Give a path in a directory of yours.") from error
    try:
        load = Load(spec, RealWorld(), _writer(sink) if sink else None)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_until_done(load, quiet=quiet))
    finally:
        if sink:
            sink.close()


def _writer(sink: IO[bytes]) -> Callable[[Record], None]:
    import msgspec

    encoder = msgspec.json.Encoder()

    def write(record: Record) -> None:
        sink.write(encoder.encode(record) + b"\n")

    return write


async def _until_done(load: Load, *, quiet: bool) -> Summary:
    """Run it with the progress shown; the first signal ends it early, the second leaves what is under way."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(load.run(stop))

    def interrupted() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        await _show_progress(load, task, quiet=quiet)
        return load.summary() if task.cancelled() else task.result()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _show_progress(load: Load, task: asyncio.Future[Summary], *, quiet: bool) -> None:
    if quiet:
        await asyncio.wait([task])
    elif sys.stderr.isatty():
        await _show_live(load, task)
    else:
        while not task.done():
            await asyncio.wait([task], timeout=LINE_S)
            if not task.done():
                note(progress_line(load.summary()))


async def _show_live(load: Load, task: asyncio.Future[Summary]) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while not task.done():
            live.update(progress_line(load.summary()), refresh=True)
            await asyncio.wait([task], timeout=LOOK_S)


def progress_line(summary: Summary) -> str:
    """One line about a load under way."""
    answers = f"{summary.answered} answered, {summary.lost_total} lost, {summary.waiting} waiting"
    return f"{summary.elapsed_s:6.1f} s  {answers}  p50 {_ms(summary.p50_s)}  p99 {_ms(summary.p99_s)}"


def print_summary(summary: Summary, *, json: bool) -> None:
    """The whole of it, for people or for programs."""
    if json:
        emit(_plain(summary), json=True)
        return
    for name, value in _rows(summary):
        line(f"{name:<12}{value}")


def _plain(summary: Summary) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(summary), "lost_total": summary.lost_total}


def _rows(summary: Summary) -> list[tuple[str, str]]:
    lost = ", ".join(f"{count} {cause}" for cause, count in summary.lost.items())
    latency = f"p50 {_ms(summary.p50_s)}  p90 {_ms(summary.p90_s)}  p99 {_ms(summary.p99_s)}  max {_ms(summary.max_s)}"
    rows = [
        ("requests", f"{summary.requests} in {summary.elapsed_s:.1f} s, {summary.rate:.1f}/s"),
        ("answered", str(summary.answered)),
        ("lost", f"{summary.lost_total} ({lost})" if lost else "0"),
        ("latency", f"{latency}  (from the due time)"),
        ("late", f"{summary.late} waited for a free connection; this client was at most {_ms(summary.lag_s)} behind"),
    ]
    if summary.waiting:
        rows.insert(3, ("unknown", f"{summary.waiting} were still under way when it was interrupted"))
    rows += [
        (f"{'release' if not index else ''}", f"{name}: {one.requests} requests, {one.lost} lost, {one.users} users")
        for index, (name, one) in enumerate(summary.by_release.items())
    ]
    return rows


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
