"""The whole control plane under faults, in one process, on a simulated clock, log and network.

A seed determines all that happens: changes of the cluster, faults, and delays of messages. One seed is printed step by
step, many are counted; the exit code is 0 only if every promise held in every run, and a seed that fails prints the
command that repeats it.

    python -m tests.simulation --seed 7                          one run, printed
    python -m tests.simulation --seeds 0:1000                    many, on all cores
    python -m tests.simulation --mistakes                        plants each mistake: is it noticed?
    python -m tests.simulation --mistake late --seed 3           one run of a product with that mistake
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.mistakes import MISTAKES
from tests.simulation.report import MistakeFound, Progress, Report, mistakes_table
from tests.simulation.run import Outcome, simulate

SEEDS = 50
MISTAKE_SEEDS = 150


def main() -> int:
    """Exit code 0 only if every promise held in every run, or with `--mistakes`: if each mistake was noticed."""
    options = _parser().parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of names are walked in hash order: a run is determined by its seed only if that is fixed.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    run = partial(simulate, compared=options.compared, mistake=options.mistake or "")
    if options.seed is not None:
        outcome = run(options.seed, print)
        print("\n".join(outcome.broken) or "every promise held")
        return bool(outcome.broken)
    first, last = options.seeds or (0, MISTAKE_SEEDS if options.mistakes is not None else SEEDS)
    with ProcessPoolExecutor(options.jobs) as pool:
        if options.mistakes is not None:
            names = options.mistakes or list(MISTAKES)
            text, wrong = mistakes_table([_look(pool, name, range(first, last), options.jobs) for name in names])
            print(text)
            return bool(wrong)
        report = Report()
        progress = Progress(last - first)
        for outcome in pool.map(run, range(first, last), chunksize=max(1, min(8, (last - first) // options.jobs))):
            report.add(outcome)
            if outcome.broken:
                # At once: a person who ends a long run early has to see them too.
                print(f"seed {outcome.seed} failed: {outcome.broken[0]}", file=sys.stderr, flush=True)
            if line := progress.line(report):
                print(line, file=sys.stderr, flush=True)
    print(report.text())
    report.write()
    return bool(report.failed)


def _look(pool: ProcessPoolExecutor, name: str, seeds: range, jobs: int) -> MistakeFound:
    """Run seed after seed with a mistake until one notices it."""
    began = time.monotonic()
    for outcome in _in_turn(pool, partial(simulate, compared=0, mistake=name), seeds, jobs):
        if outcome.broken:
            return MistakeFound(name, outcome.seed - seeds[0] + 1, outcome.broken[0], time.monotonic() - began)
    return MistakeFound(name, 0, "", time.monotonic() - began)


def _in_turn(pool: ProcessPoolExecutor, run: Callable[[int], Outcome], seeds: range, jobs: int) -> Iterator[Outcome]:
    """Outcomes in the order of their seeds, no more of them under way than there are cores."""
    for start in range(0, len(seeds), jobs):
        yield from pool.map(run, seeds[start : start + jobs])


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not first.isdecimal() or not last.isdecimal() or int(first) >= int(last):
        raise argparse.ArgumentTypeError(f"{text!r} is no FIRST:END with FIRST below END, as in 0:1000")
    return int(first), int(last)


def _jobs(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="JSON=file in the environment: with --seeds, the figures as one JSON object.",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="one run, told step by step")
    parser.add_argument(
        "--seeds", type=_span, metavar="FIRST:END", help=f"many runs, the end not included (default 0:{SEEDS})"
    )
    parser.add_argument(
        "--jobs", type=_jobs, default=os.cpu_count() or 1, metavar="N", help="processes at once (default: one per core)"
    )
    parser.add_argument(
        "--compared",
        type=int,
        default=0,
        metavar="N",
        help="commits of each run that are compiled from scratch, drawn; 0, the default: all",
    )
    parser.add_argument(
        "--mistake", choices=sorted(MISTAKES), metavar="NAME", help="run a product with this mistake (see --mistakes)"
    )
    parser.add_argument(
        "--mistakes",
        nargs="*",
        choices=list(MISTAKES),
        metavar="NAME",
        help=f"plant these mistakes one after the other (none named: all) and count the seeds, of {MISTAKE_SEEDS} "
        f"unless --seeds says otherwise, until each is noticed: {', '.join(MISTAKES)}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
