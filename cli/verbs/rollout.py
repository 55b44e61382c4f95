"""`meshlog rollout`: has this version arrived, at whom, and at whom not."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.history.source import Source
    from cli.rollout import Tracker

REFUSED, TIMED_OUT = 1, 124

_EPILOG = """\
exit code: 0 every proxy concerned has acknowledged, 1 one refuses, 124 one has not acknowledged (in time), 2 bad input

examples:
  meshlog rollout --last --wait --timeout 10
  meshlog rollout 4711
"""


def main(argv: Sequence[str]) -> int:
    """Show how far a version has come."""
    parser = argparse.ArgumentParser(
        prog="meshlog rollout",
        description="Say which proxies a version concerns, and which of them acknowledged it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", nargs="?", default="", metavar="VERSION")
    parser.add_argument("--last", action="store_true", help="the newest version")
    parser.add_argument("--wait", action="store_true", help="until it is complete, refused, or the time is over")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="T", help="seconds to wait (default 30)")
    from cli.history import source as sources

    sources.add_arguments(parser)
    options = parser.parse_args(argv)
    if bool(options.version) == options.last:
        parser.error("give a VERSION, or --last")

    async def look() -> int:
        async with sources.opened(options.log) as source:
            return await _rollout(source, options)

    return asyncio.run(look())


async def _rollout(source: Source, options: argparse.Namespace) -> int:
    from cli.history.standing import tracked
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve

    timeline = Timeline(source)
    version = await resolve(timeline, options.version or "HEAD")
    published = await timeline.commit(version)
    # A keyframe is whole: whom the version itself concerned is seen from its parent on.
    since = published.commit.parent
    tracker = await tracked(source, since=since) if since else await tracked(source)
    if options.wait:
        await _wait(source, tracker, since, version, options.timeout)
    return _tell(tracker, since, version, published.time)


async def _wait(source: Source, tracker: Tracker, since: int, version: int, seconds: float) -> None:
    from shared.status import decode_status

    _, end = await source.status.bounds()
    for record in await source.status.last_per_subject(source.streams.all_status):
        tracker.take_status(decode_status(record.payload))
    try:
        async with asyncio.timeout(seconds):
            if _settled(tracker, since, version):
                return
            async for record in source.status.follow(start=end + 1, subjects=source.streams.all_status):
                tracker.take_status(decode_status(record.payload))
                if _settled(tracker, since, version):
                    return
    except TimeoutError:
        return


def _settled(tracker: Tracker, since: int, version: int) -> bool:
    found = tracker.rollout(after=since, until=version)
    return found.complete or bool(found.refusals)


def _tell(tracker: Tracker, since: int, version: int, published: int) -> int:
    from cli.history.standing import proxy_states

    found = tracker.rollout(after=since, until=version)
    done = found.concerned - len(found.waiting)
    took = f", within {max(0, found.last_ack - published) / 1e6:.1f} ms of its publication" if found.last_ack else ""
    print(f"version {version}: {done} of {found.concerned} proxies concerned acknowledged{took if done else ''}")
    states = {one.proxy: one for one in proxy_states(tracker)}
    for key in found.waiting:
        name = key.partition("/")[2]
        state = states.get(name)
        print(f"  {name}: {state.state} ({state.reason or time.strftime('%H:%M:%S')})" if state else f"  {name}: gone")
    if found.complete:
        return 0
    print("\nwhat it was sent: meshlog show", version, "--proxy NS/POD")
    return REFUSED if found.refusals else TIMED_OUT
