"""The JUnit report of a test run. Source: pytest's `--junitxml`, and the de facto schema of Jenkins' xUnit plugin."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from gapless.rollout.reports.outcome import GateOutcome, counted, passes, refuses
from gapless.rollout.reports.xml import parse

SHOWN = 10
"""Failed tests that are named."""


def judge(report: str, status: int, output: str, at_least: int) -> GateOutcome:
    """`report`: the XML, empty when there is none; `status`: how the run ended."""
    if not report:
        return refuses(f"no JUnit report was written (exit status {status}); pass --junitxml={{report}}", output)
    try:
        cases = list(parse(report).iter("testcase"))
    except ValueError as error:
        return refuses(f"the JUnit report is {error}", output)
    bad = [case for case in cases if _failed(case)]
    skipped = sum(case.find("skipped") is not None for case in cases)
    ran = len(cases) - skipped
    numbers = {"tests": float(ran), "failed": float(len(bad)), "skipped": float(skipped)}
    if bad:
        return refuses(f"{len(bad)} of {counted(ran, 'test')} failed: {_named(bad)}", output, numbers)
    if status:
        return refuses(f"no test failed, but the run ended with status {status}", output, numbers)
    if ran < at_least:
        return refuses(f"{counted(ran, 'test')} ran, fewer than the {at_least} asked for", output, numbers)
    return passes(f"{counted(ran, 'test')} passed", numbers=numbers)


def _failed(case: Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def _named(cases: list[Element]) -> str:
    more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return ", ".join(_names(cases[:SHOWN])) + more


def _names(cases: list[Element]) -> Iterator[str]:
    for case in cases:
        yield "::".join(filter(None, (case.get("classname", ""), case.get("name", "?"))))[:200]
