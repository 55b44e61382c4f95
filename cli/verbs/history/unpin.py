"""`meshlog unpin`: deletes the pin, so that the newest policy is in force again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.terminal.deadline import Deadline


def main(argv: Sequence[str]) -> int:
    """Delete the pin and wait until every proxy has the result. Returns 0, 1 rejected, 124 timeout, 2 no pin."""
    parser = argparse.ArgumentParser(
        prog="meshlog unpin",
        description="End a rollback: put the newest policy in force.",
        epilog="Look first what that changes: meshlog log --after PINNED_VERSION --kind TrafficTarget",
    )
    add_timeout(parser, 30.0)
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    options = parser.parse_args(argv)

    from cli.history.pin import unpin
    from cli.state.mesh_status import pinned
    from cli.verbs.history.rollback import arrival
    from shared.errors import BadInputError

    async def work(deadline: Deadline) -> int:
        async with sources.opened(options.log) as source:
            if not await pinned(source):
                raise BadInputError("pin/none", "the mesh is not pinned")
            began = time.monotonic()
            sequence = await unpin(source)
            output.line(f"unpinned (event {sequence})")
            return await arrival(source, sequence, deadline, began)

    return run(work, options.timeout)
