"""What the reports of other tools come to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.model.gates import CoverageGate, SecurityGate, SmokeGate, Waiver
from gapless.rollout.reports import coverage, junit, security, smoke
from gapless.rollout.reports.findings import SEVERITIES, findings
from gapless.rollout.reports.outcome import OUTPUT_BYTES, OUTPUT_LINES, last_words

PYTEST = """<?xml version="1.0" encoding="utf-8"?><testsuites>
<testsuite name="pytest" errors="0" failures="{f}" tests="3">
<testcase classname="tests.test_a" name="test_one" time="0.001"/>{more}
<testcase classname="tests.test_a" name="test_skipped"><skipped message="no"/></testcase></testsuite></testsuites>"""
FAILED = '<testcase classname="tests.test_a" name="test_two"><failure message="assert 1 == 2">E</failure></testcase>'


def test_a_run_without_failures_passes_and_skipped_tests_are_no_tests() -> None:
    found = junit.judge(PYTEST.format(f=0, more=""), 0, "", 1)
    assert found.passed
    assert found.reason == "1 test passed"
    assert not junit.judge(PYTEST.format(f=0, more=""), 0, "", 2).passed


def test_failed_tests_are_named() -> None:
    found = junit.judge(PYTEST.format(f=1, more=FAILED), 1, "E assert", 1)
    assert not found.passed
    assert found.reason == "1 of 2 tests failed: tests.test_a::test_two"
    assert found.output == "E assert"


@pytest.mark.parametrize(
    ("report", "status", "told"),
    [
        ("", 4, "no JUnit report was written (exit status 4)"),
        ("<testsuite", 0, "the JUnit report is not XML"),
        (PYTEST.format(f=0, more=""), 3, "no test failed, but the run ended with status 3"),
        ("<testsuites/>", 0, "0 tests ran, fewer than the 1 asked for"),
    ],
)
def test_a_run_that_proves_nothing_refuses(report: str, status: int, told: str) -> None:
    found = junit.judge(report, status, "", 1)
    assert not found.passed
    assert told in found.reason


GATE = CoverageGate(file="coverage.xml", at_least=0.8, max_age_s=3600)


@given(st.floats(0, 1))
def test_coverage_passes_from_its_limit_on_in_both_formats(share: float) -> None:
    as_xml = coverage.judge(f'<coverage line-rate="{share!r}"/>', 1.0, GATE)
    assert as_xml.passed == (share >= 0.8)
    as_json = json.dumps({"totals": {"percent_covered": share * 100}})
    assert coverage.covered(as_json) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "age_s", "told"),
    [
        ("<coverage line-rate='1'/>", 3601.0, "1.0 h old"),
        ("<report/>", 1.0, "no <coverage"),
        ("{}", 1.0, "no totals"),
        ("", 1.0, "cannot be read"),
        ('{"totals": {"percent_covered": NaN}}', 1.0, "no share"),
        ("<coverage line-rate='80'/>", 1.0, "no share"),
    ],
)
def test_a_coverage_file_that_says_nothing_refuses(text: str, age_s: float, told: str) -> None:
    found = coverage.judge(text, age_s, GATE)
    assert not found.passed
    assert told in found.reason


SARIF = {
    "version": "2.1.0",
    "runs": [
        {
            "tool": {
                "driver": {
                    "name": "semgrep",
                    "rules": [
                        {"id": "sqli", "properties": {"security-severity": "9.8"}},
                        {"id": "style", "defaultConfiguration": {"level": "note"}},
                    ],
                }
            },
            "results": [
                {"ruleId": "sqli", "message": {"text": "SQL from input"}, "locations": [
                    {"physicalLocation": {"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 3}}}]},
                {"ruleId": "style", "message": {"text": "x"}},
                {"ruleId": "other", "level": "error", "message": {"text": "x"}},
                {"ruleId": "sqli", "message": {"text": "known"}, "suppressions": [{"kind": "inSource"}]},
            ],
        }
    ],
}  # fmt: skip
BANDIT = {
    "errors": [],
    "results": [
        {"test_id": "B608", "issue_severity": "MEDIUM", "filename": "a.py", "line_number": 3, "issue_text": "SQL"},
        {"test_id": "B101", "issue_severity": "LOW", "filename": "a.py", "line_number": 9, "issue_text": "assert"},
    ],
}
PIP_AUDIT = {
    "dependencies": [
        {"name": "flask", "version": "0.5", "vulns": [{"id": "PYSEC-2019-179", "fix_versions": ["1.0"],
          "aliases": ["CVE-2019-1010083"], "description": "d"}]},
        {"name": "jinja2", "version": "3", "vulns": []},
    ],
    "fixes": [],
}  # fmt: skip
TRIVY = {
    "SchemaVersion": 2,
    "Results": [
        {"Target": "poetry.lock", "Vulnerabilities": [
            {"VulnerabilityID": "CVE-1", "PkgName": "x", "InstalledVersion": "1", "Severity": "CRITICAL",
             "Title": "t"}]},
        {"Target": "Dockerfile", "Misconfigurations": [
            {"ID": "DS002", "Severity": "HIGH", "Status": "FAIL", "Title": "root"},
            {"ID": "DS001", "Severity": "HIGH", "Status": "PASS", "Title": "fine"}]},
        {"Target": "clean"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("report", "wanted"),
    [
        (SARIF, [("sqli", "critical", "a.py:3"), ("style", "low", ""), ("other", "high", "")]),
        (BANDIT, [("B608", "medium", "a.py:3"), ("B101", "low", "a.py:9")]),
        (PIP_AUDIT, [("PYSEC-2019-179", "unknown", "flask 0.5")]),
        (PIP_AUDIT["dependencies"], [("PYSEC-2019-179", "unknown", "flask 0.5")]),
        (TRIVY, [("CVE-1", "critical", "poetry.lock: x 1"), ("DS002", "high", "Dockerfile")]),
    ],
)
def test_each_format_is_read(report: object, wanted: list[tuple[str, str, str]]) -> None:
    assert [(one.id, one.severity, one.where) for one in findings(json.dumps(report))] == wanted


def judged(report: object, **limits: object) -> tuple[bool, str, str]:
    found = security.judge(json.dumps(report), 0.0, SecurityGate(file="scan.json", **limits), 1000.0)  # type: ignore[arg-type]
    return found.passed, found.reason, found.output


def test_findings_beyond_a_limit_refuse_with_their_places() -> None:
    passed, reason, output = judged(SARIF)
    assert not passed
    assert reason == "2 findings too severe: 1 critical (permitted: 0), 1 high (permitted: 0)"
    assert "critical: sqli a.py:3 SQL from input" in output
    assert judged(SARIF, critical=1, high=None)[0]


def test_a_waiver_permits_until_its_day_also_by_another_name() -> None:
    named = Waiver(id="CVE-2019-1010083", until_at=1001.0)
    assert judged(PIP_AUDIT, waivers=(named,)) == (True, "0 findings within the limits, 1 waived", "")
    passed, _, output = judged(PIP_AUDIT, waivers=(Waiver(id="CVE-2019-1010083", until_at=1000.0),))
    assert not passed
    assert "its waiver has lapsed" in output


@pytest.mark.parametrize("text", ["", "[1]", '{"runs": [{}]}', '{"results": [{}]}', '{"Results": 3}', "{}", "null"])
def test_what_is_no_report_refuses(text: str) -> None:
    found = security.judge(text, 0.0, SecurityGate(file="scan.json"), 0.0)
    assert not found.passed
    assert "cannot be read as a scan report" in found.reason


@given(
    st.lists(st.sampled_from(SEVERITIES)), st.dictionaries(st.sampled_from(SEVERITIES), st.integers(0, 3) | st.none())
)
def test_a_report_passes_exactly_when_no_severity_is_above_its_limit(
    found: list[str], limits: dict[str, int | None]
) -> None:
    results = [{"VulnerabilityID": "C", "Severity": severity} for severity in found]
    gate = SecurityGate(file="x", **limits)  # type: ignore[arg-type]
    fine = all(getattr(gate, s) is None or found.count(s) <= getattr(gate, s) for s in SEVERITIES)
    assert judged({"Results": [{"Vulnerabilities": results}]}, **limits)[0] == fine


def summary(**more: object) -> str:
    return json.dumps({"requests": 100, "lost": {}, "p99_s": 0.2, "rate": 20.0, **more})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (summary(), ""),
        (summary(lost={"status": 1}), "1 of 100 requests were lost (1 status)"),
        (summary(p99_s=1.5), "p99 1500 ms, and 1000 ms are permitted"),
        (summary(rate=5.0), "only 5 of 20 requests/s"),
        (summary(requests=0), "only"),
        ("error: no such host", "the load could not be run"),
        ('{"error": "x", "code": 2}', "the load could not be run"),
    ],
)
def test_a_smoke_load_is_judged_by_its_losses_and_its_p99(text: str, told: str) -> None:
    found = smoke.judge(text, SmokeGate())
    assert found.passed == (not told)
    assert told in found.reason


@given(st.text())
def test_last_words_are_bounded(text: str) -> None:
    kept = last_words(text * 50)
    assert len(kept) <= OUTPUT_BYTES
    assert len(kept.splitlines()) <= OUTPUT_LINES
