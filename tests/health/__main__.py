"""`make health`: provokes what can be wrong with a mesh, one after the other, and sees it named within 5 s.

    python -m tests.health                     every row
    python -m tests.health no- pin             those rows, and all that begin so

By `meshlog status`, `meshlog verify control-plane`, their exit codes, `/readyz`, metrics and conditions. The exit code
is 1 if a row is not named by all of them, or late.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence

from cli import embedded
from deploy.devcluster.launch import mesh
from tests.health.matrix import WITHIN, Outcome, line, tell
from tests.health.rows import ROWS, Row
from tests.health.scene import opened


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows that these names, or beginnings of names, select; all if there are none."""
    return [row for row in ROWS if not names or any(row.name.startswith(name) for name in names)]


async def run(rows: Sequence[Row]) -> list[Outcome]:
    """Tell them on the mesh that runs."""
    found: list[Outcome] = []
    async with opened() as scene:
        for row in rows:
            found.append(outcome := await tell(scene, row))
            print(line(outcome), flush=True)
    return found


def main(names: Sequence[str]) -> int:
    """Start a mesh in a directory of its own, provoke, end it."""
    with tempfile.TemporaryDirectory(prefix="meshlog-health-") as state:
        os.environ[embedded.STATE_VARIABLE] = state
        try:
            embedded.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None)
            found = asyncio.run(run(chosen(names)))
        finally:
            mesh.down(embedded.state_directory())
    named = sum(not one.missing and one.slowest <= WITHIN for one in found)
    print(f"{named} of {len(found)} are named by everything within {WITHIN:g} s")
    return 0 if named == len(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
