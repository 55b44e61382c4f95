"""`make bench`: every benchmark after the other; `python -m benchmarks NAME…` for some of them."""

from __future__ import annotations

import importlib
import sys

NAMES = ("idle", "edge", "ingest", "inject", "compile", "ca", "history")


def main(names: list[str]) -> int:
    """Run the benchmarks named, or all; 2 for a name that there is not."""
    for name in [name for name in names if name != "full"] or NAMES:
        if name not in NAMES:
            print(f"benchmarks: there is no {name!r}; one of {', '.join(NAMES)}", file=sys.stderr)
            return 2
        importlib.import_module(f"benchmarks.{name}").run().show()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
