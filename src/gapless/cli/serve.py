"""`gapless serve`: run one app, and replace its code without losing a request."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def serve_command(
    ctx: typer.Context,
    app: Annotated[str, typer.Argument(help="module:attribute of an ASGI, WSGI or gRPC app.")],
    bind: Annotated[
        list[str] | None,
        typer.Option(
            "--bind",
            "-b",
            help="HOST:PORT, unix:PATH, fd://N or fd://NAME; repeat it. Default: systemd's sockets, or 127.0.0.1:8000.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Processes that serve.")] = 1,
    admin: Annotated[str, typer.Option(help="unix:PATH of the admin socket. Default: .gapless/serve.sock.")] = "",
    drain: Annotated[str, typer.Option(help="Limit for ending what was begun, like 30s.")] = "30s",
    announce: Annotated[
        str, typer.Option(help="How long to say so and still accept before. Default: 0.3s, in Kubernetes 5s.")
    ] = "",
    start: Annotated[str, typer.Option(help="Limit for becoming ready, like 30s.")] = "30s",
    factory: Annotated[bool, typer.Option("--factory", help="Call the attribute to get the app.")] = False,
    app_dir: Annotated[str, typer.Option(help="Look for the module here first.")] = "",
    pid: Annotated[str, typer.Option(help="File for the server's pid, written once it is ready.")] = "",
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request.")] = False,
    access_sample: Annotated[
        str, typer.Option(help="Log only such a share of them, like 10%; failed and slow ones always.")
    ] = "100%",
    bake: Annotated[
        str, typer.Option(help="How long the old code stays ready to return after a reload, like 10s.")
    ] = "0s",
    heartbeat: Annotated[str, typer.Option(help="A worker whose loop is blocked for so long is replaced.")] = "30s",
    max_crashes: Annotated[
        int, typer.Option(min=0, help="Crashes in a row after which a worker is given up; 0: never.")
    ] = 16,
    max_requests: Annotated[
        int, typer.Option(min=0, help="Replace a worker after so many requests (less up to 10 %); 0: never.")
    ] = 0,
    max_age: Annotated[str, typer.Option(help="Replace a worker after so long (less up to 10 %), like 24h.")] = "",
    max_memory: Annotated[str, typer.Option(help="Replace a worker that uses more, like 512MB.")] = "",
    affinity: Annotated[bool, typer.Option("--affinity", help="Bind each worker to one core.")] = False,
    reload_on: Annotated[
        list[str] | None, typer.Option(help="Reload when this file or directory has changed; repeat it.")
    ] = None,
    tls_cert: Annotated[str, typer.Option(help="PEM file of certificate and chain: TLS on every TCP bind.")] = "",
    tls_key: Annotated[str, typer.Option(help="PEM file of its key, if it is not in the same file.")] = "",
    tls_client_ca: Annotated[str, typer.Option(help="PEM file: clients must show a certificate of one of these.")] = "",
    tls_min: Annotated[str, typer.Option(help="Oldest version of TLS, 1.2 or 1.3.")] = "1.2",
    socket_mode: Annotated[str, typer.Option(help="Permissions of Unix sockets, like 660.")] = "666",
    socket_owner: Annotated[str, typer.Option(help="USER, USER:GROUP or :GROUP that Unix sockets get.")] = "",
    wsgi: Annotated[bool, typer.Option("--wsgi", help="It is a WSGI app, even if it does not look like one.")] = False,
    grpc: Annotated[
        bool, typer.Option("--grpc", help="It adds gRPC servicers to the server that it is given.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Requests at a time per worker, for a WSGI app.")] = 10,
    trust: Annotated[
        list[str] | None,
        typer.Option(help="Address or network of proxies whose word counts, or *; repeat it. Default: loopback."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path that a proxy in front takes away, like /shop: the app's links get it back.")
    ] = "",
    keep_alive: Annotated[str, typer.Option(help="How long a connection may be idle.")] = "75s",
    max_connections: Annotated[int, typer.Option(min=0, help="Per worker, 503 above; 0: no limit.")] = 0,
    max_line: Annotated[str, typer.Option(help="Longest request target, 414 above; 0: no limit.")] = "16KiB",
    max_headers: Annotated[str, typer.Option(help="All header fields together, 431 above; 0: no limit.")] = "64KiB",
    max_header_count: Annotated[int, typer.Option(min=0, help="Header fields, 431 above; 0: no limit.")] = 100,
    max_body: Annotated[str, typer.Option(help="Request body, 413 above, like 10MB; 0: no limit.")] = "0",
    header_timeout: Annotated[str, typer.Option(help="For the head of a request, 408 after; 0: no limit.")] = "20s",
    body_timeout: Annotated[
        str, typer.Option(help="For a body, besides 1 s for each 500 bytes, 408 after; 0: no limit.")
    ] = "30s",
    send_timeout: Annotated[
        str, typer.Option(help="For a client that takes less than 500 bytes a second of a response; 0: no limit.")
    ] = "60s",
) -> None:
    """Serve an ASGI, WSGI or gRPC app with readiness, drain, metrics, crash restart, and `gapless reload`.

    SIGHUP and SIGUSR2 reload the code: new workers start and become ready before the old ones leave. SIGTTIN and
    SIGTTOU add and remove a worker. SIGTERM and Ctrl-C drain; the second time they end it at once.

    Exit status: 0 drained, 4 the app cannot be loaded or its workers crash again and again, 5 it was not ready in
    time, 6 the address is taken.

    With --grpc the attribute is a function `def add(server)` that adds its servicers, or a GrpcService around one.

    Example: gapless serve shop.orders:app --bind 0.0.0.0:8000 --workers 2
    """
    from gapless.core.size import size
    from gapless.server.http.client_limits import ClientLimits
    from gapless.server.http.forwarded import checked
    from gapless.server.listen.bind import file_mode
    from gapless.server.serve import run
    from gapless.server.settings import LOOPBACK, Settings, seconds, seconds_or_0, share, tls_paths
    from gapless.server.settings import announce as announced
    from gapless.service.mount import root_path_of

    settings = Settings(
        app=app,
        binds=tuple(bind or ()),
        workers=workers,
        admin=admin,
        drain_s=seconds(drain, "--drain"),
        announce_s=announced(announce, os.environ),
        start_s=seconds(start, "--start"),
        factory=factory,
        app_dir=app_dir,
        pid_file=pid,
        access_log=access_log,
        access_sample=share(access_sample, "--access-sample"),
        socket_mode=file_mode(socket_mode, "--socket-mode"),
        socket_owner=socket_owner,
        interface=_interface(wsgi, grpc),
        threads=threads,
        bake_s=seconds_or_0(bake, "--bake"),
        heartbeat_s=seconds(heartbeat, "--heartbeat"),
        max_crashes=max_crashes,
        max_requests=max_requests,
        max_age_s=seconds_or_0(max_age, "--max-age"),
        max_memory=size(max_memory, "--max-memory"),
        affinity=affinity,
        root_path=root_path_of(root_path),
        keep_alive_s=seconds(keep_alive, "--keep-alive"),
        trust=checked(trust) if trust else LOOPBACK,
        limits=ClientLimits(
            header_bytes=size(max_headers, "--max-headers"),
            header_count=max_header_count,
            line_bytes=size(max_line, "--max-line"),
            body_bytes=size(max_body, "--max-body"),
            header_s=seconds_or_0(header_timeout, "--header-timeout"),
            body_s=seconds_or_0(body_timeout, "--body-timeout"),
            send_s=seconds_or_0(send_timeout, "--send-timeout"),
            connections=max_connections,
        ),
        reload_on=tuple(map(os.path.abspath, reload_on or ())),
        **tls_paths(tls_cert, tls_key, tls_client_ca, tls_min),
    )
    raise typer.Exit(run(settings, ctx.obj))


def _interface(wsgi: bool, grpc: bool) -> str:
    from gapless.core.errors import ConfigError
    from gapless.server.settings import AUTO, GRPC, WSGI

    if wsgi and grpc:
        raise ConfigError("--wsgi and --grpc exclude each other", "Give the one that the app speaks.")
    return GRPC if grpc else WSGI if wsgi else AUTO
