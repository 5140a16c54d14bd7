"""Tells people and programs of changes, alerts and incidents."""
