"""The command: `python -m tests.simulation --seeds 1000`, or one seed with `--seed 1234 --trace`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.simulation.seeds import many
from tests.simulation.world import Outcome, run


def main(arguments: list[str] | None = None) -> int:
    """Run seeds and say what came of them; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--start", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="run side by side (default: cores)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that happens")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        outcome = run(given.seed)
        print(*(outcome.trace if given.trace else ()), sep="\n")
        print(f"seed {outcome.seed}: {outcome.counts}, trace {outcome.digest}")
        outcomes: Iterator[Outcome] = iter([outcome])
    else:
        outcomes = many(range(given.start, given.start + given.seeds), given.processes)
    return _report(outcomes)


def _report(outcomes: Iterator[Outcome]) -> int:
    started = time.perf_counter()
    sums: Counter[str] = Counter()
    failed = 0
    for outcome in outcomes:
        sums.update(outcome.counts)
        sums["seeds"] += 1
        if outcome.violations:
            failed += 1
            print(f"seed {outcome.seed} (python -m tests.simulation --seed {outcome.seed} --trace):")
            print(*(f"  {violation}" for violation in outcome.violations), sep="\n", flush=True)
    seconds = time.perf_counter() - started
    told = ", ".join(f"{sums[name]:,} {name}" for name in ("seeds", "turns", "processes", "virtual seconds", "steps"))
    print(f"{told} in {seconds:.1f} s: {failed} seeds failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
