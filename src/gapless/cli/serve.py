"""`gapless serve`: run one app, and replace its code without losing a request."""

from __future__ import annotations

from typing import Annotated

import typer


def serve_command(
    app: Annotated[str, typer.Argument(help="module:attribute of an ASGI app.")],
    bind: Annotated[
        list[str] | None,
        typer.Option("--bind", "-b", help="HOST:PORT, unix:PATH or fd://N; repeat it. Default: 127.0.0.1:8000."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Processes that serve.")] = 1,
    admin: Annotated[str, typer.Option(help="unix:PATH of the admin socket. Default: .gapless/serve.sock.")] = "",
    drain: Annotated[str, typer.Option(help="Limit for ending what was begun, like 30s.")] = "30s",
    start: Annotated[str, typer.Option(help="Limit for becoming ready, like 30s.")] = "30s",
    factory: Annotated[bool, typer.Option("--factory", help="Call the attribute to get the app.")] = False,
    app_dir: Annotated[str, typer.Option(help="Look for the module here first.")] = "",
    pid: Annotated[str, typer.Option(help="File for the server's pid, written once it is ready.")] = "",
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request.")] = False,
) -> None:
    """Serve an ASGI app with readiness, drain, metrics, crash restart, and `gapless reload`.

    SIGHUP and SIGUSR2 reload the code: new workers start and become ready before the old ones leave. SIGTERM and
    Ctrl-C drain; the second time they end it at once.

    Exit status: 0 drained, 4 the app cannot be loaded, 5 it was not ready in time, 6 the address is taken.

    Example: gapless serve shop.orders:app --bind 0.0.0.0:8000 --workers 2
    """
    from gapless.server.serve import run
    from gapless.server.settings import Settings, seconds

    settings = Settings(
        app=app,
        binds=tuple(bind or ("127.0.0.1:8000",)),
        workers=workers,
        admin=admin,
        drain_s=seconds(drain, "--drain"),
        start_s=seconds(start, "--start"),
        factory=factory,
        app_dir=app_dir,
        pid_file=pid,
        access_log=access_log,
    )
    raise typer.Exit(run(settings))
