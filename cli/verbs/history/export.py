"""`meshlog export`: writes the log to one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run

_EPILOG = """\
The file is checksummed and holds no secret: events, commits, keyframes, status and public certificates. Every verb
that reads history takes it: `meshlog why --log FILE …`. `meshlog replay FILE --verify` proves it.

examples:
  meshlog export incident.meshlog
  meshlog export --from @-2h --to HEAD incident.meshlog
"""


def main(argv: Sequence[str]) -> int:
    """Write the file. Returns 0, or 2 if the version does not exist."""
    parser = argparse.ArgumentParser(
        prog="meshlog export",
        description="Write the log of the mesh, or a part of it, into one file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--from", dest="first", default="", metavar="VERSION", help="begin after this version")
    parser.add_argument("--to", dest="last", default="", metavar="VERSION", help="end with this version (default: all)")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 600.0)
    options = parser.parse_args(argv)

    from cli.history.archive_export import export
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve

    async def work(_: Deadline) -> int:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            first = await resolve(timeline, options.first) + 1 if options.first else 1
            last = await resolve(timeline, options.last) if options.last else None
            done = await export(source, options.file, first=first, last=last)
        counts = ", ".join(f"{count} {noun}" for noun, count in done.records.items() if count)
        output.line(f"{done.path}: {counts}; {done.bytes / 1e6:.2f} MB")
        output.note(f"prove it: meshlog replay {done.path} --verify")
        return 0

    return run(work, options.timeout, undone="written")
