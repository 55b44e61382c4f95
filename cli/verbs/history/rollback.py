"""`meshlog rollback`: pins the mesh to the policy of a past version."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.history.log_source import LogSource
    from cli.history.timeline import Timeline
    from cli.terminal.deadline import Deadline

_EPILOG = """\
Policy and routing (SMI objects and the MeshConfig) go back; pods, endpoints, services, namespaces and certificates
stay as they are now. What is applied meanwhile is recorded and comes into force with `meshlog unpin`.
`meshlog status` says that the mesh is pinned for as long as it is.

examples:
  meshlog rollback HEAD~1 --dry-run
  meshlog rollback HEAD~1 --why "403s since 03:12"
  meshlog rollback @-10m --why "whatever it was"
  meshlog unpin
"""


def main(argv: Sequence[str]) -> int:
    """Pin the mesh and wait until every proxy has the result. Returns 0, 1 rejected, 124 timeout, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="meshlog rollback",
        description="Put the policy of a past version in force again, in seconds.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", metavar="VERSION")
    parser.add_argument("--why", default="", help="the reason, for people that read the log")
    parser.add_argument(
        "--dry-run", action="store_true", help="list the objects that would go back, and change nothing"
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="of --dry-run")
    add_timeout(parser, 30.0)
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    options = parser.parse_args(argv)

    from cli.history.pin import pin_to
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve

    async def work(deadline: Deadline) -> int:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            version = await resolve(timeline, options.version)
            if options.dry_run:
                return await _preview(timeline, version, as_json=options.output == "json")
            began = time.monotonic()
            sequence, pin = await pin_to(timeline, version, options.why)
            output.line(f"pinned to version {pin.version} (event {sequence}); `meshlog unpin` ends it")
            return await arrival(source, sequence, deadline, began)

    return run(work, options.timeout)


async def _preview(timeline: Timeline, version: int, *, as_json: bool) -> int:
    """Print the objects that a rollback would change, without a change."""
    from cli.history.pin import going_back

    found = await going_back(timeline, version)
    if as_json:
        output.json({"version": version, "objects": [{"object": str(key), "change": change} for key, change in found]})
        return 0
    if not found:
        output.line(f"nothing would go back: the policy of version {version} is in force")
        return 0
    output.line(f"to the policy of version {version}, {len(found)} objects would go back:")
    output.table(["CHANGE", "OBJECT"], [(change, key) for key, change in found])
    return 0


async def arrival(source: LogSource, sequence: int, deadline: Deadline, began: float) -> int:
    """Wait until every proxy has the version that holds an event, and print the result. Returns the exit code."""
    from cli.arrival.wait import arrived, exit_code

    found = await arrived(source, sequence, within=deadline.left)
    if found is None:
        output.line(f"no version holds it after {deadline.seconds:g} s: does a compiler run? meshlog status")
        return exit_code(found)
    took = time.monotonic() - began
    if not found.concerned:
        output.line("no proxy is concerned: that policy was in force already")
        return 0
    done = found.concerned - len(found.waiting)
    output.line(
        f"version {found.version}: {done} of {found.concerned} proxies concerned acknowledged, {took:.2f} s in all"
    )
    for refusal in found.refusals:
        output.line(f"  refused by {refusal}")
    if not found.complete:
        output.line(f"who is missing: meshlog rollout {found.version}")
    return exit_code(found)
