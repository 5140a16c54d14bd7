"""How often the change that did it comes first, over made-up incidents: six changes, one of which broke something.

    python benchmarks/blame.py                    50 incidents
    python benchmarks/blame.py --incidents 500 --seed 100000

Beside it, on the same incidents, what people do without evidence: the last change before the alert, and the last one of
a service that alerted. The weights of the scorer were chosen by looking at seeds 0 to 59 and 1,000 to 1,059; the
default here begins at 50,000. `gapless.testing.incidents` tells what is made up, and how.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable

from gapless.observe.incident_blame import Candidate, blame
from gapless.testing.incidents import Case, made

TARGET = 0.9
WRONG_SHOWN = 10

Rule = Callable[[Case], int]


def by_blame(case: Case) -> int:
    return blame(case.scene, case.candidates)[0].number


def last_change(case: Case) -> int:
    return newest([each for each in case.candidates if each.at <= case.scene.since_at])


def last_of_alerted(case: Case) -> int:
    before = [each for each in case.candidates if each.at <= case.scene.since_at]
    return newest([each for each in before if each.service in case.scene.alerted])


def newest(candidates: list[Candidate]) -> int:
    return max(candidates, key=lambda each: each.at).number if candidates else 0


RULES: dict[str, Rule] = {
    "blame": by_blame,
    "last change": last_change,
    "last change of an alerted service": last_of_alerted,
}


def interval(hits: int, n: int) -> tuple[float, float]:
    """Of a share, 95 % (Wilson)."""
    z, p = 1.96, hits / n
    middle, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--incidents", type=int, default=50)
    parser.add_argument("--seed", type=int, default=50_000)
    chosen = parser.parse_args()
    cases = [made(seed) for seed in range(chosen.seed, chosen.seed + chosen.incidents)]
    faults = Counter(case.fault for case in cases)
    shares = {}
    for name, rule in RULES.items():
        began = time.perf_counter()
        hits = Counter(case.fault for case in cases if rule(case) == case.culprit)
        took_ms = (time.perf_counter() - began) * 1000 / len(cases)
        shares[name] = hits.total() / len(cases)
        low, high = interval(hits.total(), len(cases))
        parts = "  ".join(f"{fault} {hits[fault]}/{count}" for fault, count in sorted(faults.items()))
        print(f"{name:34} {shares[name]:6.1%} ({low:.1%} … {high:.1%})  {took_ms:6.1f} ms each   {parts}")
    wrong = [case for case in cases if by_blame(case) != case.culprit][:WRONG_SHOWN]
    for case in wrong:
        print(f"  seed {case.seed}, {case.fault}: the culprit is change {case.culprit}, not {by_blame(case)}")
    print(f"target: first in {TARGET:.0%}: {'met' if shares['blame'] >= TARGET else 'missed'}")
    return 0 if shares["blame"] >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
