"""What scanners have found: SARIF 2.1.0 (OASIS), and the JSON of bandit, pip-audit and trivy, as one list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SEVERITIES = ("critical", "high", "medium", "low", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found. `id`: of the rule or the advisory; `also`: its other names."""

    id: str
    severity: str
    where: str = ""
    what: str = ""
    also: tuple[str, ...] = ()


def findings(text: str) -> list[Finding]:
    """Raises ValueError when it is none of the formats, or does not have their shape."""
    found: Any = json.loads(text)
    for is_it, read in _FORMATS:
        if is_it(found):
            try:
                return list(read(found))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"it breaks off or has an unknown shape ({type(error).__name__}: {error})") from None
    raise ValueError("neither SARIF nor the JSON of bandit, pip-audit or trivy")


def _has(key: str) -> Any:
    return lambda found: isinstance(found, dict) and key in found


def _severity(text: Any) -> str:
    word = str(text).lower()
    return word if word in SEVERITIES else {"moderate": "medium", "negligible": "low"}.get(word, "unknown")


def _sarif(found: Any) -> Iterator[Finding]:
    for run in found["runs"]:
        rules = {rule["id"]: rule for rule in run["tool"]["driver"].get("rules", ())}
        for result in run.get("results", ()):
            if not result.get("suppressions"):
                yield _sarif_finding(result, rules)


def _sarif_finding(result: Any, rules: Mapping[str, Any]) -> Finding:
    name = result.get("ruleId") or result.get("rule", {}).get("id", "?")
    places = result.get("locations") or [{}]
    place = places[0].get("physicalLocation", {})
    line = place.get("region", {}).get("startLine", "")
    uri = place.get("artifactLocation", {}).get("uri", "")
    return Finding(
        id=name,
        severity=_sarif_severity(result, rules.get(name, {})),
        where=f"{uri}:{line}" if line else uri,
        what=str(result["message"].get("text", ""))[:200],
    )


def _sarif_severity(result: Any, rule: Any) -> str:
    """GitHub's `security-severity` (a CVSS score) says more than the level. CVSS 3.1 §5 has the steps."""
    score = {**rule.get("properties", {}), **result.get("properties", {})}.get("security-severity")
    if score is not None:
        steps = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"))
        return next((name for least, name in steps if float(score) >= least), "low")
    level = result.get("level") or rule.get("defaultConfiguration", {}).get("level", "warning")
    return {"error": "high", "warning": "medium", "note": "low", "none": "low"}.get(level, "unknown")


def _bandit(found: Any) -> Iterator[Finding]:
    for one in found["results"]:
        where = f"{one['filename']}:{one['line_number']}"
        yield Finding(
            id=one["test_id"], severity=_severity(one["issue_severity"]), where=where, what=one["issue_text"][:200]
        )


def _pip_audit(found: Any) -> Iterator[Finding]:
    for package in found["dependencies"] if isinstance(found, dict) else found:
        for one in package.get("vulns", ()):
            where = f"{package['name']} {package.get('version', '')}"
            what = f"fixed in {', '.join(one.get('fix_versions', ())) or 'no version'}"
            yield Finding(id=one["id"], severity="unknown", where=where, what=what, also=tuple(one.get("aliases", ())))


def _trivy(found: Any) -> Iterator[Finding]:
    for result in found["Results"] or ():
        target = result.get("Target", "")
        for one in result.get("Vulnerabilities") or ():
            where = f"{target}: {one.get('PkgName', '')} {one.get('InstalledVersion', '')}"
            yield Finding(
                id=one["VulnerabilityID"],
                severity=_severity(one.get("Severity")),
                where=where,
                what=str(one.get("Title", ""))[:200],
            )
        for one in (*(result.get("Misconfigurations") or ()), *(result.get("Secrets") or ())):
            name = one.get("ID") or one.get("RuleID") or "?"
            if one.get("Status", "FAIL") == "FAIL":
                yield Finding(
                    id=name, severity=_severity(one.get("Severity")), where=target, what=str(one.get("Title", ""))[:200]
                )


def _is_pip_audit_list(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(one, dict) and "name" in one for one in found)


_FORMATS = (
    (_has("runs"), _sarif),
    (_has("Results"), _trivy),
    (_has("dependencies"), _pip_audit),
    (_has("results"), _bandit),
    (_is_pip_audit_list, _pip_audit),
)
