"""Metrics that gapless.yaml makes of others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedMetric:
    """A rate of events per second; or, with `to`, the ratio of two such rates, for instance of orders paid to orders
    created."""

    name: str
    metric: str
    """As it is recorded, for instance `orders_paid_total`."""
    to: str = ""
    """What is divided by; empty: nothing."""
