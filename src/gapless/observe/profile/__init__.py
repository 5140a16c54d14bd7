"""Profiles as values: what was sampled, and the forms in which it is written. Taking them is `server.profile`."""

from __future__ import annotations

from gapless.observe.profile.values import Frame, Measure, Profile, merged

__all__ = ["Frame", "Measure", "Profile", "merged"]
