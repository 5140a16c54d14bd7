"""False rollbacks, and time and users until harm is found: our analysis and others' rules, on the same requests.

    .venv/bin/python benchmarks/verdict.py                  # a minute
    .venv/bin/python benchmarks/verdict.py --runs 200       # all of it: hours
    .venv/bin/python benchmarks/verdict.py --only harm --runs 100

Rollouts stand for 30 minutes at a 5 % step and are looked at every second, alpha = 1 %. In A/A rollouts the canary is
as good as the stable release, so each rollback is a false one. Then canaries that fail more often, or are slower: how
long it takes, and how many users have met the canary by then. Traffic: verdict_traffic.py; rules: verdict_peers.py.
benchmarks/verdict_replay.py does the same with a real Envoy.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gapless.observe import judge
from verdict_peers import ALPHA, Gapless, deciders
from verdict_traffic import World, play

Z95 = 1.96
RATES = (0.5, 5.0, 50.0, 1_000.0)
BASES = (0.005, 0.02, 0.05)
KINDS = {
    "independent": {},
    "sticky users": {"sticky": True},
    "bursts": {"sticky": True, "bursts": True},
    "incidents": {"sticky": True, "incidents": True},
    "daily waves": {"sticky": True, "waves": True},
}


@dataclass(frozen=True)
class End:
    """How one rollout ended for one decider: the second of its rollback and the users met, or nothing."""

    at: int = 0
    met: int = 0
    reason: str = ""


def run(world: World, seed: int, names: Iterable[str]) -> dict[str, End]:
    """What each decider would do with one and the same rollout."""
    made = deciders(world.share)
    live = {name: made[name]() for name in names}
    found: dict[str, End] = dict.fromkeys(live, End())
    for at, second in enumerate(play(world, seed), 1):
        for name in list(live):
            if reason := live[name].sees(at, second.canary, second.stable):
                found[name] = End(at, second.met, reason)
                del live[name]
        if not live:
            break
    return found


def interval(events: int, trials: int) -> str:
    """A share with its 95 % confidence interval."""
    low, high = judge.wilson_lower(events, trials, Z95), judge.wilson_upper(events, trials, Z95)
    return f"{events / trials:.1%} [{low:.1%}, {high:.1%}]"


def middle(values: list[float]) -> str:
    """Median and the 90th percentile; what was never found, or before there was harm, counts as infinite."""
    values = sorted(values)
    shown = [values[len(values) // 2], values[min(math.ceil(len(values) * 0.9), len(values)) - 1]]
    return " / ".join("-" if math.isinf(value) else f"{value:.0f}" for value in shown)


def table(title: str, heads: list[str], rows: dict[str, list[str]]) -> None:
    """As Markdown, so that it can stand in the documentation."""
    print(f"\n{title}\n\n| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def same_and_same(runs: int, seed: int, rates: tuple[float, ...], peers: bool) -> None:
    """A/A: the share of rollouts that were rolled back."""
    reasons: Counter[str] = Counter()
    total = Counter[str]()
    for kind, options in KINDS.items():
        names = list(deciders(0.05)) if peers else ["gapless"]
        rows: dict[str, list[str]] = {name: [] for name in names}
        heads = [f"{rate:g}/s, {base:.1%}" for rate in rates for base in BASES]
        for rate in rates:
            for base in BASES:
                ends = [run(World(per_s=rate, base=base, **options), seed + each, names) for each in range(runs)]
                for name in names:
                    false = sum(end[name].at > 0 for end in ends)
                    rows[name].append(interval(false, runs))
                    total[name] += false
                reasons.update(end["gapless"].reason[:60] for end in ends if end["gapless"].at)
        table(f"Falsely rolled back within 30 min: {kind} ({runs} rollouts each)", heads, rows)
    count = runs * len(KINDS) * len(rates) * len(BASES)
    print("\nAll together: " + "; ".join(f"{name} {interval(total[name], count)}" for name in total))
    print(f"alpha is {ALPHA:.0%}. Reasons of ours: {dict(reasons) or 'none'}")


def harm(runs: int, seed: int) -> None:
    """Seconds until the rollback, and users who had met the canary."""
    calm = World(per_s=100, base=0.005, sticky=True)
    errors = {f"errors {rate:.0%}": replace(calm, canary=rate) for rate in (0.02, 0.05, 0.1, 0.2, 0.5)}
    slow = {f"latency x{times:g}": replace(calm, slower=times) for times in (1.5, 3, 10)}
    late = {"50 %, after 20 min": replace(calm, canary=0.5, breaks_at=1_200)}
    cases = {**errors, **slow, **late}
    names = list(deciders(0.05))
    times: dict[str, list[str]] = {name: [] for name in names}
    users: dict[str, list[str]] = {name: [] for name in names}
    for case in cases.values():
        ends = [run(case, seed + each, names) for each in range(runs)]
        for name in names:
            found = [end[name] for end in ends]
            times[name].append(middle([e.at - case.breaks_at if e.at > case.breaks_at else math.inf for e in found]))
            users[name].append(middle([e.met if e.at > case.breaks_at else math.inf for e in found]))
    what = f"median / 90th percentile of {runs} rollouts, 100 requests/s, 5 % share, 0.5 % base errors, sticky users"
    table(f"Seconds until the rollback is begun; {what}", list(cases), times)
    table(f"Users who had met the canary by then; {what}", list(cases), users)


def cost_us(looks: int = 300) -> float:
    """Of one look."""
    decider = Gapless(0.05)
    seconds = list(play(World(per_s=100, base=0.005, sticky=True, seconds=looks), 0))
    spent = []
    for at, second in enumerate(seconds, 1):
        began = time.perf_counter()
        decider.sees(at, second.canary, second.stable)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=0, help="rollouts per cell; 0: a quick look")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["aa", "harm"], help="one of the two parts")
    parser.add_argument("--rates", type=float, nargs="+", help="requests per second of the A/A part")
    parser.add_argument("--no-peers", action="store_true", help="A/A of our own analysis only")
    options = parser.parse_args()
    began, quick = time.perf_counter(), not options.runs
    if options.only != "harm":
        rates = tuple(options.rates or ((5.0,) if quick else RATES))
        same_and_same(options.runs or 1, options.seed, rates, peers=not options.no_peers)
    if options.only != "aa":
        harm(options.runs or 3, options.seed)
    print(f"\n{time.perf_counter() - began:.0f} s; a look of the whole analysis takes {cost_us():.0f} µs")


if __name__ == "__main__":
    main()
