"""Consul's HTTP API, as far as clients of a registry use it: an ASGI app with a router of its own, made for speed.

`app.py` is the way of every request, `request.py` and `answer.py` what handlers take and give, `watches.py` blocking
queries, `bodies.py` the JSON that clients send. A group of endpoints is one file with a class whose `routes` are put
together by `compose.py`.
"""
