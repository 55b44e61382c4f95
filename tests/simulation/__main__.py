"""The command: one seed told step by step, or many seeds counted."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.mistakes import MISTAKES
from tests.simulation.run import Outcome, simulate


def main() -> int:
    """Exit code 0 only if every promise held in every run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="one run, told")
    parser.add_argument("--seeds", default="0:50", help="FIRST:END, the end not included")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--compared", type=int, default=0, help="commits of each run that are compiled from scratch, drawn; 0: all"
    )
    parser.add_argument(
        "--mistake", choices=sorted(MISTAKES), help="run compilers with this mistake: it must be noticed"
    )
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of names are walked in hash order: a seed says what happens only under a fixed one.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    if options.seed is not None:
        outcome = simulate(options.seed, print, compared=options.compared, mistake=options.mistake or "")
        print("\n".join(outcome.broken) or "every promise held")
        return bool(outcome.broken)
    first, _, end = options.seeds.partition(":")
    began = time.monotonic()
    with ProcessPoolExecutor(options.jobs) as pool:
        run = partial(simulate, compared=options.compared, mistake=options.mistake or "")
        outcomes = list(pool.map(run, range(int(first), int(end)), chunksize=4))
    return _report(outcomes, time.monotonic() - began)


def _report(outcomes: list[Outcome], seconds: float) -> int:
    failed = [outcome for outcome in outcomes if outcome.broken]
    schedules = {hashlib.sha256("\n".join(one.faults).encode()).digest() for one in outcomes}
    settled = sorted(one.settled for one in outcomes if not one.broken)
    print(
        f"{len(outcomes)} seeds, {len(schedules)} distinct fault schedules with {sum(len(o.faults) for o in outcomes)} "
        f"faults, {sum(o.changes for o in outcomes)} changes, {sum(o.epochs > 1 for o in outcomes)} with more than one "
        f"epoch, {sum(o.compared for o in outcomes)} commits compared with a compile from scratch, "
        f"{sum(o.resent for o in outcomes)} resources resent; settled after {settled[len(settled) // 2]:.2f} s "
        f"(median), {settled[-1]:.2f} s (longest), simulated; {seconds:.0f} s of real time"
        if settled
        else f"{len(outcomes)} seeds, none held"
    )
    for outcome in failed[:20]:
        print(f"\nseed {outcome.seed}: repeat it by: python -m tests.simulation --seed {outcome.seed}")
        print("\n".join(f"  {why}" for why in outcome.broken[:5]))
    print(f"{len(failed)} of {len(outcomes)} failed" if failed else "every promise held in every run")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
