"""`meshlog rollout`: shows which proxies have acknowledged a version, and which have not."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.arrival.tracker import Rollout, Tracker
    from cli.history.log_source import LogSource
    from cli.terminal.deadline import Deadline

_EPILOG = """\
exit code: 0 every proxy concerned has acknowledged, 1 one refuses, 124 one has not acknowledged (in time), 2 bad input

examples:
  meshlog rollout --last --wait --timeout 10
  meshlog rollout 4711
"""


def main(argv: Sequence[str]) -> int:
    """Print how many proxies have a version. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog rollout",
        description="Say which proxies a version concerns, and which of them acknowledged it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", nargs="?", default="", metavar="VERSION")
    parser.add_argument("--last", action="store_true", help="the newest version")
    parser.add_argument("--wait", action="store_true", help="until it is complete, refused, or the time is over")
    add_timeout(parser, 30.0)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    options = parser.parse_args(argv)
    if bool(options.version) == options.last:
        parser.error("give a VERSION, or --last")

    async def work(deadline: Deadline) -> int:
        async with sources.opened(options.log) as source:
            return await _rollout(source, options, deadline)

    return run(work, options.timeout)


async def _rollout(source: LogSource, options: argparse.Namespace, deadline: Deadline) -> int:
    from cli.arrival.log_tracker import tracked
    from cli.arrival.wait import exit_code, settled
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve

    timeline = Timeline(source)
    version = await resolve(timeline, options.version or "HEAD")
    published = await timeline.commit(version)
    # A keyframe holds everything: the proxies that the version itself affected are computed from its parent on.
    since = published.commit.parent
    tracker = await tracked(source, since=since) if since else await tracked(source)
    if options.wait:
        found = await settled(source, tracker, after=since, until=version, within=deadline.left)
    else:
        found = tracker.rollout(after=since, until=version)
    if options.output == "json":
        output.json(_as_json(tracker, found, published.time), indent=2)
    else:
        _tell(tracker, found, published.time)
    return exit_code(found)


def _milliseconds(found: Rollout, published: int) -> float | None:
    """Return the time from the publication to the last acknowledgement, or None if there is none yet."""
    done = found.concerned > len(found.waiting)
    return round(max(0, found.last_ack - published) / 1e6, 1) if found.last_ack and done else None


def _tell(tracker: Tracker, found: Rollout, published: int) -> None:
    from cli.state.mesh_status import proxy_states

    done = found.concerned - len(found.waiting)
    took = _milliseconds(found, published)
    when = "" if took is None else f", within {took} ms of its publication"
    output.line(f"version {found.version}: {done} of {found.concerned} proxies concerned acknowledged{when}")
    states = {one.proxy: one for one in proxy_states(tracker)}
    for key in found.waiting:
        name = key.partition("/")[2]
        state = states.get(name)
        output.line(
            f"  {name}: {state.state} ({state.reason or time.strftime('%H:%M:%S')})" if state else f"  {name}: gone"
        )
    if not found.complete:
        output.line()
        output.line(f"what it was sent: meshlog show {found.version} --proxy NS/POD")


def _as_json(tracker: Tracker, found: Rollout, published: int) -> dict[str, Any]:
    from cli.state.mesh_status import proxy_states

    states = {one.proxy: one for one in proxy_states(tracker)}
    waiting: list[dict[str, str]] = []
    for key in found.waiting:
        state = states.get(key.partition("/")[2])
        word, reason = (state.state, state.reason) if state else ("gone", "")
        waiting.append({"proxy": key.partition("/")[2], "state": word, "reason": reason})
    return {
        "version": found.version,
        "published": published,
        "concerned": found.concerned,
        "acknowledged": found.concerned - len(found.waiting),
        "complete": found.complete,
        "milliseconds": _milliseconds(found, published),
        "waiting": waiting,
        "refusals": list(found.refusals),
    }
