"""`meshlog why`: explains which objects a resource of a proxy comes from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.explain.provenance import Explanation, Reason
    from cli.terminal.deadline import Deadline

_EPILOG = """\
TYPE is cluster, endpoints, listener or route; `meshlog show HEAD --proxy NS/POD` lists what a proxy holds.
"decided by": without this object the proxy would not hold these bytes; each was tried. "read": was looked at;
taking it away alone changes nothing.

examples:
  meshlog why bookbuyer/bookbuyer-7c9d 'cluster/outbound|bookstore/bookstore|14001'
  meshlog why bookstore/bookstore-v1-5f 'route/inbound|14001' --at @-10m      down to the rule
"""


def main(argv: Sequence[str]) -> int:
    """Print the explanation. Returns 0, or 2 if the proxy does not hold the resource."""
    parser = argparse.ArgumentParser(
        prog="meshlog why",
        description="Say why a proxy holds a resource: the objects, versions and people behind its bytes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("proxy", metavar="NS/POD")
    parser.add_argument("resource", metavar="TYPE/NAME")
    parser.add_argument("--at", default="HEAD", metavar="VERSION", help="at this version or time (default HEAD)")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 60.0)
    options = parser.parse_args(argv)

    from cli.explain.provenance import why
    from cli.history.naming import parse_proxy, parse_resource
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve

    type_url, name = parse_resource(options.resource)

    async def work(_: Deadline) -> int:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            proxy = parse_proxy(options.proxy, source.about.cluster)
            version = await resolve(timeline, options.at)
            snapshot = await timeline.single_proxy_snapshot(version, proxy)
            if not snapshot.proxies:
                snapshot = await timeline.snapshot(version)  # the error lists other proxies
            answer = await why(timeline, snapshot, proxy, type_url, name)
        if options.output == "json":
            output.json(_as_json(answer), indent=2)
        else:
            _tell(answer)
        return 0

    return run(work, options.timeout)


def _tell(answer: Explanation) -> None:
    from cli.history.naming import line, type_name

    resource, proxy = answer.resource, answer.proxy.partition("/")[2]
    output.line(f"{type_name(resource.type_url)}/{resource.name} of {proxy} at version {answer.version}")
    deciding = answer.decides
    _tell_inconsistent(answer.inconsistent)
    output.line()
    output.line("decided by:" if answer.split else "made from (too many to try each):")
    for reason in deciding:
        output.line(f"  {line(reason.happened, reason.cause.key, reason.cause.sequence)}")
    if answer.rules:
        output.line()
        output.line("rules:")
        for rule in answer.rules:
            output.line(f"  {rule.name}: {rule.text}")
            for key in rule.objects:
                output.line(f"    by {key}")
    if answer.read:
        output.line()
        output.line(f"read ({len(answer.read)} more; taking one away alone changes nothing):")
        for reason in answer.read[:10]:
            output.line(f"  {line(reason.happened, reason.cause.key, reason.cause.sequence)}")
        if len(answer.read) > 10:
            output.line(f"  and {len(answer.read) - 10} more (-o json lists them)")
    if deciding:
        newest = max(deciding, key=lambda reason: reason.cause.sequence).cause.sequence
        output.line()
        output.line(f"the newest of these: meshlog show {newest}")


def _tell_inconsistent(sentences: Sequence[str]) -> None:
    if not sentences:
        return
    output.line()
    output.line("what this proxy holds is inconsistent (a bug of the compiler: please report it):")
    output.lines(f"  {sentence}" for sentence in sentences[:10])
    if len(sentences) > 10:
        output.line(f"  and {len(sentences) - 10} more (-o json lists them)")


def _as_json(answer: Explanation) -> dict[str, Any]:
    def reason(one: Reason) -> dict[str, Any]:
        from cli.history.naming import who

        happened = one.happened
        return {
            "object": str(one.cause.key),
            "uid": one.cause.uid,
            "resourceVersion": one.cause.resource_version,
            "sequence": one.cause.sequence,
            "time": happened.time if happened else None,
            "by": who(happened) if happened else None,
        }

    return {
        "proxy": answer.proxy,
        "type": answer.resource.type_url,
        "name": answer.resource.name,
        "hash": answer.resource.hash,
        "version": answer.version,
        "tried": answer.split,
        "decides": [reason(one) for one in answer.decides],
        "read": [reason(one) for one in answer.read],
        "inconsistent": answer.inconsistent,
        "rules": [
            {"name": one.name, "objects": [str(key) for key in one.objects], "text": one.text} for one in answer.rules
        ],
    }
