"""`make bench`: every benchmark after the other; `python -m benchmarks NAME…` for some of them.

`JSON=file` in the environment writes one object there: the benchmark's own if it was one, else all under `results`.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import msgspec

from benchmarks.table import Result

NAMES = ("idle", "edge", "ingest", "inject", "compile", "ca", "history", "statuses")


def main(arguments: list[str]) -> int:
    """Run the benchmarks named, or all; 2 for a name that there is not. `full` is read by those that know it."""
    names = [name for name in arguments if name != "full"] or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        print(f"benchmarks: there is no {unknown[0]!r}; one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results: list[Result] = []
    for name in names:
        result: Result = importlib.import_module(f"benchmarks.{name}").run()
        result.show()
        results.append(result)
        if path := os.environ.get("JSON"):
            Path(path).write_bytes(msgspec.json.encode(result if len(names) == 1 else {"results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
