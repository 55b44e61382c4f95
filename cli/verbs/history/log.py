"""`meshlog log`: prints the events of the log."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.history.log_source import LogSource
    from cli.history.timeline import LoggedEvent
    from cli.terminal.deadline import Deadline

_EPILOG = """\
examples:
  meshlog log                                   the last 50 events
  meshlog log --since -10m --kind TrafficTarget
  meshlog log --ns bookstore --who kubectl -f   follow
"""


def main(argv: Sequence[str]) -> int:
    """Print events, the newest last. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog log",
        description="Print the events of the log: one line a change of an object.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--since", default="", metavar="T", help="from this time on: 2026-11-20T03:12 (UTC) or -10m")
    parser.add_argument("--after", type=int, default=0, metavar="V", help="only events after this version")
    parser.add_argument("--until", type=int, default=None, metavar="V", help="only events up to this version")
    parser.add_argument("--kind", default="", help="of this kind")
    parser.add_argument("--ns", default="", help="in this namespace")
    parser.add_argument("--name", default="", help="of this name")
    parser.add_argument("--who", default="", help="only events whose field manager contains this text")
    parser.add_argument("-n", "--lines", type=int, default=50, help="so many at most without --since or --after")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it happens")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 60.0, "seconds that all of it may take; with -f until it follows")
    options = parser.parse_args([f"--since={a}" if b == "--since" else a for a, b in _pairs(argv) if a != "--since"])

    async def work(deadline: Deadline) -> int:
        async with sources.opened(options.log) as source:
            await _print(source, options, deadline)
        return 0

    return run(work, options.timeout)


def _pairs(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Return each argument with the one before it: `--since -10m` has a value that looks like a flag."""
    return list(zip(argv, ["", *argv], strict=False))


async def _print(source: LogSource, options: argparse.Namespace, deadline: Deadline) -> None:
    from cli.history.timeline import Timeline
    from cli.history.versions import parse_moment
    from shared.records.subjects import escape

    timeline = Timeline(source)
    about = source.about
    tokens = [escape(text) if text else "*" for text in (options.kind, options.ns, options.name)]
    if options.kind and not options.ns and options.name:
        tokens[1] = "*"
    subjects = ".".join((about.prefix, "events", escape(about.cluster), *tokens))
    after = options.after
    if options.since:
        after = max(after, await timeline.since(parse_moment(options.since)) - 1)
    tail = options.lines if not (options.since or options.after) else None
    reached = after
    kept: list[LoggedEvent] = []
    async for item in timeline.history(after=after, until=options.until, subjects=subjects):
        reached = item.sequence
        if not _fits(item, options.who):
            continue
        kept.append(item)
        if tail is not None and len(kept) > tail:
            del kept[0]
        elif tail is None:
            _show(kept.pop(), options.output)
    for item in kept:
        _show(item, options.output)
    if options.follow:
        reached = max(reached, (await source.events.bounds())[1])
        deadline.lift()
        await _follow(source, subjects, reached, options)


async def _follow(source: LogSource, subjects: str, reached: int, options: argparse.Namespace) -> None:
    from cli.history.timeline import logged_event_in

    async for record in source.events.follow(start=reached + 1, subjects=subjects):
        item = logged_event_in(record)
        if item is not None and _fits(item, options.who):
            _show(item, options.output)


def _fits(item: LoggedEvent, who: str) -> bool:
    from cli.history import naming

    return who in naming.who(item)


def _show(item: LoggedEvent, form: str) -> None:
    from cli.history import naming
    from cli.terminal.times import clock

    event = item.event
    if form == "json":
        document = {
            "sequence": item.sequence,
            "time": item.time,
            "object": str(event.key),
            "operation": event.operation,
            "by": naming.who(item),
            "uid": event.uid,
            "resourceVersion": event.resource_version,
            "changeSet": event.origin.change_set,
        }
        output.json(document, flush=True)
        return
    when = clock(item.time) if time.time_ns() - item.time > 86400e9 else clock(item.time)[11:]
    output.line(f"{item.sequence:>8}  {when}  {event.operation:<7}  {event.key!s:<60}  {naming.who(item)}", flush=True)
