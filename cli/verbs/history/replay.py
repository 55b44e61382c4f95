"""`meshlog replay`: rebuilds every version of an exported log, and compares it with what the mesh published."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.terminal import output

if TYPE_CHECKING:
    from cli.replay.verification import ReplayOutcome

_MOST_INCONSISTENT = 20
"""Limit of the inconsistencies of a version that are printed."""
_EPILOG = """\
exit code: 0 the same, 1 a version differs or is inconsistent, or the chain of the log is broken,
           2 the file cannot be used

examples:
  meshlog replay incident.meshlog --verify        every version, hash by hash
  meshlog replay incident.meshlog --until 4711
"""


def main(argv: Sequence[str]) -> int:
    """Replay a file. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog replay",
        description="Compile an exported log again, on any machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--until", type=int, default=None, metavar="V", help="stop after this version")
    parser.add_argument("--verify", action="store_true", help="compare each version with what was published")
    options = parser.parse_args(argv)

    from cli.history.archive_stream import Archive
    from cli.history.log_source import collect_rarely, of_archive
    from cli.replay.verification import Replay

    collect_rarely()
    archive = Archive(options.file)
    began = time.monotonic()
    try:
        outcome = asyncio.run(Replay(of_archive(archive), until=options.until, verify=options.verify).run())
    finally:
        archive.close()
    return _tell(outcome, time.monotonic() - began, verify=options.verify)


def _tell(outcome: ReplayOutcome, seconds: float, *, verify: bool) -> int:
    rate = outcome.events / seconds if seconds else 0.0
    found = outcome.difference
    if found is not None:
        output.line(
            f"version {found.version} differs: {found.what}: published {found.published}, here {found.replayed}"
        )
        output.note(f"compiled by {', '.join(outcome.builds)}. This is a bug: please report it with the file.")
        return 1
    if outcome.inconsistent_at:
        output.line(f"version {outcome.inconsistent_at} is inconsistent:")
        output.lines(f"  {sentence}" for sentence in outcome.inconsistent[:_MOST_INCONSISTENT])
        output.note("This is a bug of the compiler: please report it with the file.")
        return 1
    if outcome.broken:
        output.line(f"the chain of the log does not hold: {outcome.broken}")
        return 1
    how = f"{outcome.versions} versions are what was published, {outcome.resources} hashes compared" if verify else ""
    output.line(f"version {outcome.last} rebuilt from {outcome.events} events in {seconds:.1f} s ({rate:.0f} events/s)")
    if how:
        output.line(how)
    if outcome.foreign:
        output.line(f"{outcome.foreign} records that no service wrote were passed over")
    if outcome.forgotten:
        output.line(
            f"{outcome.forgotten} versions cannot be compared: the log no longer holds what they were made from"
        )
    return 0
