"""The comparer: a process of its own that the gateway sends mirrored requests to. It answers each at once, then asks
the new release and the stable one, and counts what their answers differ in.

`masks.py`, `answers.py` and `tally.py` are pure; `ask.py` asks, `comparer.py` receives, `__main__.py` is the process.
Why the stable release is asked once more: docs/decisions/0033-the-mirror-asks-both-releases.md.
"""
