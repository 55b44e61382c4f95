"""`meshlog why-not`: explains why a call is denied (or allowed), and since when."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.explain.call_history import CallQuery, DecisionChange

_EPILOG = """\
FROM and TO are NS/POD (the name of its workload will do), sa:NS/ACCOUNT or svc:NS/SERVICE, as in `meshlog check`; the
answer is read from what the sidecars of both ends were told at that version.

A proxy of the call that refuses the newest version, or has not acknowledged it, is named: it may do otherwise.

exit code: 0 allowed, 1 denied (or allowed, and a proxy of the call is not in sync), 2 bad input, 124 not known in time

examples:
  meshlog why-not bookthief/bookthief svc:bookstore/bookstore --path /buy-a-book
  meshlog why-not sa:shop/web svc:shop/db --port 5432 --at @-10m
"""


def main(argv: Sequence[str]) -> int:
    """Decide the call and print the last change of the decision. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog why-not",
        description="Say why a call does not pass: the rule or its absence, and the event that made it so.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("caller", metavar="FROM")
    parser.add_argument("called", metavar="TO")
    parser.add_argument("--port", type=int, help="of the Service, if it has several")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--path", default="/")
    parser.add_argument("--header", action="append", default=[], metavar="K=V", help="can be repeated")
    parser.add_argument("--at", default="HEAD", metavar="VERSION", help="at this version or time (default HEAD)")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 60.0)
    options = parser.parse_args(argv)

    from cli.calls.matching import HttpRequest, target_of
    from cli.explain.call_history import CallQuery

    headers = [text.partition("=") for text in options.header]
    if not all(separator for _, separator, _ in headers):
        parser.error("--header takes NAME=VALUE")
    request = HttpRequest(
        method=options.method.upper(),
        path=target_of(options.method.upper(), options.path),
        headers=tuple((name, value) for name, _, value in headers),
    )
    call = CallQuery(options.caller, options.called, request, options.port)
    return run(lambda _: _answer(options.log, options.at, call), options.timeout)


async def _answer(log: str, at: str, call: CallQuery) -> int:
    from cli.explain.call_history import decide, last_otherwise
    from cli.explain.proxy_reality import remarks
    from cli.history import log_source as sources
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve
    from cli.state.mesh_status import pinned

    async with sources.opened(log) as source:
        timeline = Timeline(source)
        version = await resolve(timeline, at)
        answers = await decide(timeline, await timeline.snapshot(version), call)
        output.line(f"at version {version}:")
        output.lines(f"  {line}" for answer in answers for line in answer.lines)
        pin = await pinned(source) if source.archive is None else ""
        if pin:
            output.line(f"the mesh is {pin}; newer policy is recorded and not in force: `meshlog unpin`")
        doubts = await remarks(source, answers, version=version)
        if doubts:
            output.line("what the proxies do now may differ:")
            output.lines(f"  {doubt}" for doubt in doubts)
        other = await last_otherwise(timeline, version, call)
        if other is None:
            output.line("it was never otherwise, in what the log keeps")
        else:
            _turn(other)
    return 0 if all(answer.allowed for answer in answers) and not doubts else 1


def _turn(other: DecisionChange) -> None:
    """Print the version that changed the decision, and the event that did; if no single one did, all of them."""
    from cli.history import naming

    before = "allowed" if other.before else "denied"
    if other.decisive is None:
        output.line(f"it was {before} until version {other.version}, which holds:")
        shown = other.events[-20:]
    else:
        output.line(f"it was {before} until version {other.version}, by:")
        shown = [other.decisive]
    output.lines(f"  {naming.line(item, item.event.key, item.sequence)}" for item in shown)
    if len(other.events) > len(shown):
        output.line(f"  ({len(other.events) - len(shown)} more events are in that version)")
    output.line(f"what that changed: meshlog show {other.version}")
