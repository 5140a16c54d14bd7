"""Flask, each request in a thread: gapless serve with_flask:app --threads 20"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

from flask import Flask, Response, jsonify, request

from gapless import Service

VERSION = "1"
app = Flask(__name__)


@app.get("/")
def version() -> Response:
    return jsonify(version=VERSION)


@app.get("/slow")
def slow() -> Response:
    time.sleep(request.args.get("seconds", 1.0, float))
    return jsonify(version=VERSION)


@app.get("/count")
def count() -> Response:
    """A body that is made while it is sent."""

    def numbers() -> Iterator[str]:
        for number in range(10):
            yield f"{number}\n"
            time.sleep(0.2)

    return Response(numbers(), mimetype="text/plain")


service = Service("flask", app)


@service.resource
async def database() -> AsyncIterator[str]:
    yield "connected"
    print("closed by the service", flush=True)
