"""`gapless route`: which requests go where, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.group import OrShow
from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.core.model import RouteTable

route_group = typer.Typer(
    cls=OrShow,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Which requests go to which service and release, and why.

    Example: gapless route explain --user 42 /orders
    """,
)


@route_group.command("show")
def show_command(json: Json = False, file: File = DEFAULT_FILE, state: State = None) -> None:
    """Show all routes in the order in which the gateway tries them.

    Example: gapless route show
    """
    from gapless.cli.output import emit
    from gapless.gateway.explain import listed

    path = "/v1/routes"
    found = _ask(file, state, lambda client: client.get(path), lambda table: {"routes": listed(table)})
    _remark(found)
    emit(found if json else [_row(route) for route in found["routes"]] or "no service has a route", json)


@route_group.command("explain")
def explain_command(
    path: Annotated[str, typer.Argument(help="Path with query, or a whole URL.")] = "/",
    user: Annotated[str, typer.Option("--user", help="Who asks: the header x-user-id.")] = "",
    host: Annotated[str, typer.Option("--host", help="The host that is asked for.")] = "",
    method: Annotated[str, typer.Option("--method", "-X", help="The method.")] = "GET",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'NAME: VALUE'; repeatable.")] = None,
    cookie: Annotated[list[str] | None, typer.Option("--cookie", help="NAME=VALUE; repeatable.")] = None,
    address: Annotated[str, typer.Option("--from", help="Address of the client.")] = "127.0.0.1",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Tell which service and which release answer a request, and each route and rule that was looked at.

    Without a control plane it is told from the table that the gateway was given last, or else from gapless.yaml.

    Exit status: 0, also when nobody answers.

    Example: gapless route explain --user 42 -H 'x-tenant: gold' --from 10.0.0.7 /orders
    """
    from msgspec import to_builtins

    from gapless.cli.output import emit, line
    from gapless.gateway.explain import explain
    from gapless.gateway.match import Request

    path, host = _place(path, host)
    headers = _headers(user, header or [], cookie or [])
    asked = Request(path=path, host=host, method=method.upper(), headers=headers, address=_address(address))
    found = _ask(
        file,
        state,
        lambda client: client.ask("POST", "/v1/routes/explain", to_builtins(asked)),
        lambda table: explain(table, asked),
    )
    _remark(found)
    if json:
        emit(found, json)
        return
    for text in told(found):
        line(text)


def told(found: dict[str, Any]) -> list[str]:
    """An explanation for people."""
    lines = [_looked(each["matches"], f"{each['service']}  {each['route']}", each["why"]) for each in found["routes"]]
    if not found["service"]:
        return [*lines, f"nobody: {found['why']}"]
    lines += [_looked(each["applies"], each["rule"], each["why"]) for each in found["rules"]]
    return [*lines, f"{found['service']} {found['release'] or '(any)'}: {found['why']}"]


def _looked(taken: bool, what: str, why: str) -> str:
    return f"  {'*' if taken else '-'} {what}{f': {why}' if why else ''}"


def _row(route: dict[str, Any]) -> dict[str, Any]:
    split = ", ".join(
        release if share == 1 else f"{release} {share * 100:g}%" for release, share in route["split"].items()
    )
    return {
        "service": route["service"],
        "route": route["route"],
        "release": split if route["answers"] else "nobody answers",
        "by": route["by"] if len(route["split"]) > 1 else "-",
        "timeout": f"{route['timeout_s']:g}s",
        "retries": route["attempts"],
    }


def _remark(found: dict[str, Any]) -> None:
    from gapless.cli.output import note

    if found.get("refusal"):
        note(f"the gateway refused a newer table and goes on with this one: {found['refusal']}")
    if found.get("source"):
        note(found["source"])


def _ask(
    file: Path, state: Path | None, ask: Callable[[Any], Any], alone: Callable[[RouteTable], dict[str, Any]]
) -> dict[str, Any]:
    """The control plane's answer; when there is none, ours."""
    from gapless.cli.client import ControlClient, state_of
    from gapless.core.errors import ControlUnreachable

    directory = state_of(state, file)
    try:
        found: dict[str, Any] = ask(ControlClient(directory))
        return found
    except ControlUnreachable:
        table, source = _last_known(file, directory)
        return {**alone(table), "source": source}


def _last_known(file: Path, directory: Path) -> tuple[RouteTable, str]:
    """The table without a control plane, and where it comes from. Raises ConfigError."""
    from gapless.core import codec
    from gapless.core.model import RouteTable

    try:
        data = (directory / "discovery.json").read_bytes()
    except OSError:
        return _of_file(file), f"no control plane runs: told from {file} alone, which knows no releases"
    return codec.decode(data, RouteTable), "no control plane runs: this is what the gateway was told last"


def _of_file(file: Path) -> RouteTable:
    """Each service with one release, which is not known, and an instance that stands for all of them."""
    from gapless.config import load
    from gapless.core.model import BUCKETS, Address, Endpoint, RouteTable, ServiceTable, Split

    one = Endpoint(instance="", release="", address=Address(host="127.0.0.1", port=1))
    tables = [
        ServiceTable(
            service=name,
            split=Split(service=name, stable="", weights=(("", BUCKETS),)),
            endpoints=(one,),
            routes=service.routes,
            timeout_s=service.timeout_s,
        )
        for name, service in load(file).services.items()
    ]
    return RouteTable(version=0, services=tuple(tables))


def _place(path: str, host: str) -> tuple[str, str]:
    """Path and host of a URL, or of a path; dots resolved, as the gateway does. Raises ConfigError."""
    from urllib.parse import urljoin, urlsplit

    from gapless.core.errors import ConfigError

    if "://" not in path and not path.startswith("/"):
        raise ConfigError(f"{path} is no path", "Write for instance /orders, or http://shop.example/orders.")
    found = urlsplit(urljoin("http://localhost", path))
    query = f"?{found.query}" if found.query else ""
    return (found.path or "/") + query, host or found.netloc or "localhost"


def _headers(user: str, headers: list[str], cookies: list[str]) -> dict[str, str]:
    from gapless.core.errors import ConfigError

    found: dict[str, str] = {}
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ConfigError(f"-H {text!r} is not NAME: VALUE", "Write for instance -H 'x-tenant: gold'.")
        name = name.strip().lower()
        if name in found:
            raise ConfigError(f"-H {name} is given twice", "Give each header once; --cookie can be repeated.")
        found[name] = value.strip()
    if wrong := [text for text in cookies if "=" not in text]:
        raise ConfigError(f"--cookie {wrong[0]!r} is not NAME=VALUE", "Write for instance --cookie session=4711.")
    if cookies:
        found["cookie"] = "; ".join([*([found["cookie"]] if "cookie" in found else []), *cookies])
    return found | ({"x-user-id": user} if user else {})


def _address(text: str) -> str:
    import ipaddress

    from gapless.core.errors import ConfigError

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"--from {text}: not an address", "Write for instance --from 10.0.0.7.") from None
