"""Traces: the way of a request through services. `context.py` is what travels, the rest is what is kept of it."""
