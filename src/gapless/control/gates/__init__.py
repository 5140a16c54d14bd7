"""Runs what a new release must pass before users meet it: `gates.py` is the loop, `run.py` one gate, then a file for
each kind."""
