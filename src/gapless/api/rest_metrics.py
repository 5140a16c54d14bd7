"""The routes of recorded metrics, and of the metrics of everybody as they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.config.quantities import seconds
from gapless.control.plane import ControlPlane
from gapless.control.scraper import CONTROL, GATEWAY, Scraper, labels_of
from gapless.core.errors import ConfigError, UnknownName
from gapless.core.ports import Selection
from gapless.observe.exposition import OPEN, PLAIN, wants_open
from gapless.observe.overview import overview

OF = ("value", "max", "rate", "increase", "quantile", "mean")
POINTS = 120
"""Of a series, where no step is asked for."""


def metrics_routes(plane: ControlPlane) -> list[Route]:
    api = _Metrics(plane)
    return [
        Route("/v1/metrics/series", api.series),
        Route("/v1/metrics/latest", api.latest),
        Route("/v1/metrics/names", api.names),
        Route("/v1/metrics/overview", api.overview),
        metrics_route(plane.watching.scraper),
    ]


def metrics_route(scraper: Scraper) -> Route:
    """`/metrics`, as a Prometheus asks for it."""

    async def metrics(request: Request) -> Response:
        asked = wants_open(request.headers.get("accept", ""))
        return Response(await scraper.federated(open_metrics=asked), headers={"content-type": OPEN if asked else PLAIN})

    return Route("/metrics", metrics)


def metrics_app(scraper: Scraper) -> Starlette:
    """What `metrics.listen` serves: the metrics of all together or of each alone, and where each is, for Prometheus'
    HTTP service discovery."""

    async def targets(request: Request) -> Response:
        """Asked at the address by which Prometheus has reached us, whatever that is."""
        address = request.headers.get("host", "")
        return JSONResponse([_group(address, labels, phase) for labels, phase in _found(scraper)])

    async def one(request: Request) -> Response:
        asked = wants_open(request.headers.get("accept", ""))
        try:
            text = await scraper.one(request.path_params["name"], open_metrics=asked)
        except UnknownName as error:
            return Response(f"{error}\n", 404)
        if not text:
            return Response("the instance does not answer\n", 503)
        return Response(text, headers={"content-type": OPEN if asked else PLAIN})

    return Starlette(routes=[metrics_route(scraper), Route("/metrics/{name}", one), Route("/http_sd", targets)])


def _found(scraper: Scraper) -> Iterator[tuple[Mapping[str, str], str]]:
    for instance in scraper.instances():
        yield labels_of(instance), str(instance.phase)
    yield {"instance": GATEWAY}, ""
    yield {"instance": CONTROL}, ""


def _group(address: str, labels: Mapping[str, str], phase: str) -> dict[str, Any]:
    path = {"__metrics_path__": f"/metrics/{labels['instance']}", "__meta_gapless_phase": phase}
    return {"targets": [address], "labels": {**labels, **path}}


class _Metrics:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def series(self, request: Request) -> Response:
        """`?metric=NAME&where=label:value&by=label&of=rate&q=0.99&over=60s&since=1h&until=0s&step=30s`: `since` and
        `until` are moments (seconds since the epoch) or how long ago."""
        query, now = request.query_params, self._plane.time()
        since_at, until_at = _moment(query, "since", now, 3600.0), _moment(query, "until", now, 0.0)
        step_s = _duration(query, "step", max((until_at - since_at) / POINTS, 1.0))
        found = await self._plane.watching.signals.series(_selection(query), since_at, until_at, step_s)
        return JSONResponse({"since_at": since_at, "until_at": until_at, "step_s": step_s, "series": _plain(found)})

    async def latest(self, request: Request) -> Response:
        """As `series`, at one moment: `at`, or now."""
        query = request.query_params
        at = _moment(query, "at", self._plane.time(), 0.0)
        return JSONResponse(
            {"at": at, "series": _plain(await self._plane.watching.signals.latest(_selection(query), at))}
        )

    async def overview(self, _: Request) -> Response:
        """Each release over the last minute."""
        return JSONResponse(_plain(await overview(self._plane.watching.signals, self._plane.records.services())))

    async def names(self, _: Request) -> Response:
        return JSONResponse(await self._plane.watching.metric_names())


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _selection(query: QueryParams) -> Selection:
    """Raises ConfigError."""
    if not (metric := query.get("metric", "")):
        raise ConfigError("no metric is named", "Give for instance ?metric=gapless_requests_total&of=rate.")
    of = query.get("of", "value")
    if of not in OF:
        raise ConfigError(f"of={of}: there is no such figure", f"There are: {', '.join(OF)}.")
    where = dict(_pair(text) for text in query.getlist("where"))
    by = tuple(name for text in query.getlist("by") for name in text.split(",") if name)
    q = _share(query.get("q", "0.99"))
    return Selection(metric=metric, where=where, by=by, of=of, q=q, over_s=_duration(query, "over", 60.0))  # type: ignore[arg-type]


def _pair(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ConfigError(f"where={text}: not a label and its value", "Write for instance where=service:orders.")
    return name, value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"q={text}: not a share of the observations", "Write for instance q=0.99.")
    return value


def _duration(query: QueryParams, name: str, default: float) -> float:
    """Raises ConfigError for what is no duration above 0."""
    if name not in query:
        return default
    try:
        value = seconds(query[name])
    except ValueError as error:
        raise ConfigError(f"{name}={query[name]}: {error}", "Write for instance 60s.") from error
    if value <= 0:
        raise ConfigError(f"{name}={query[name]}: not longer than nothing", "Write for instance 60s.")
    return value


def _moment(query: QueryParams, name: str, now: float, default_ago_s: float) -> float:
    """A number that large is a moment, everything else how long ago."""
    if name not in query:
        return now - default_ago_s
    try:
        value = seconds(query[name])
    except ValueError as error:
        raise ConfigError(f"{name}={query[name]}: {error}", "Write for instance 1h, or seconds since 1970.") from error
    return value if value > 1e9 else now - value
