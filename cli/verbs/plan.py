"""`meshlog plan`: what applying would do, before it is done."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import output

if TYPE_CHECKING:
    from cli.api import Manifest
    from cli.history.planning import Plan
    from cli.history.source import Source

_VALIDATED = 5
"""Classes that a real Envoy is asked about unless told otherwise: a quarter of a second each."""

_EPILOG = """\
Nothing is applied. Calls are asked with one request for each match of each route group, and GET /.

exit code: 0 no proxy would see a change, 1 some would, 2 bad input, or Envoy would refuse, or objects would be left out

examples:
  meshlog plan -f policy.yaml
  meshlog plan --delete TrafficTarget/shop/allow --at @-1d
  meshlog plan -f policy.yaml --log exported.meshlog -o json      in a pipeline, without a cluster
  meshlog plan -f policy.yaml --server --log nats://nats:4222     in a pipeline, against the running mesh
  meshlog plan -f policy.yaml --calls seen.jsonl                  which of the calls seen would be denied
"""


def main(argv: Sequence[str]) -> int:
    """Plan."""
    parser = argparse.ArgumentParser(
        prog="meshlog plan",
        description="Compile the newest state plus changes, and say what would differ.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-f", "--filename", type=Path, action="append", default=[], help="a file or a folder to apply")
    parser.add_argument("--delete", action="append", default=[], metavar="KIND/NS/NAME", help="an object to delete")
    parser.add_argument("--at", default="HEAD", metavar="VERSION", help="on top of this version or time (default HEAD)")
    parser.add_argument(
        "--envoys", type=int, default=_VALIDATED, metavar="N", help="ask a real Envoy about so many classes (default 5)"
    )
    parser.add_argument(
        "--server", action="store_true", help="let the API server admit and default the objects first (dry run)"
    )
    parser.add_argument("--kubeconfig", type=Path, help="with --server; default: $KUBECONFIG, the embedded mesh")
    parser.add_argument("--context", default="", help="with --server: context of the kubeconfig")
    parser.add_argument(
        "--calls", type=Path, metavar="FILE", help="calls that were seen, a JSON object a line: from, to, port, path, …"
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    from cli.history import source as sources

    sources.add_arguments(parser)
    options = parser.parse_args(argv)
    if not options.filename and not options.delete:
        parser.error("give -f FILE or --delete KIND/NS/NAME")

    from cli.history.naming import parse_object
    from cli.history.planning import plan
    from cli.history.seen import read_calls
    from cli.history.states import newest_event
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve
    from cli.manifests import read_manifests
    from cli.shapes import shaped

    put = shaped([one for path in options.filename for one in read_manifests(path)])
    drop = [parse_object(text) for text in options.delete]
    seen = read_calls(options.calls) if options.calls is not None else []

    async def run() -> Plan:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            version = await resolve(timeline, options.at)
            if options.at == "HEAD":
                version = max(version, await newest_event(source))
            admitted = await _admitted(options, source, put) if options.server else put
            return await plan(timeline, version, admitted, drop, seen=seen)

    found = asyncio.run(run())
    refusals = _refusals(found, options.envoys)
    if options.output == "json":
        output.json(_as_json(found, refusals), indent=2)
    else:
        _tell(found, refusals)
    if refusals or found.left_out:
        return 2
    return 0 if found.nothing else 1


async def _admitted(options: argparse.Namespace, source: Source, put: list[Manifest]) -> list[Manifest]:
    """The objects as the API server would keep them; nothing is changed there.

    Raises `BadInputError` if the log is behind the API server: a plan on top of it would be of another mesh.
    """
    from cli.cluster.target import session
    from cli.recorded import Recorder
    from shared.errors import BadInputError

    async with session(options) as api:
        lacks = await Recorder(api, source.events, source.streams, source.about.cluster, source.about.namespace).lacks(
            put
        )
        if lacks:
            named = ", ".join(lacks[:5]) + (f" and {len(lacks) - 5} more" if len(lacks) > 5 else "")
            sentence = f"the log does not hold {named} as the API server keeps it: see `meshlog status`"
            raise BadInputError("plan/behind", sentence)
        return [await api.dry_run(manifest) for manifest in put]


def _refusals(found: Plan, most: int) -> dict[str, str]:
    from cli.history.refusing import find_envoy, refusal

    envoy = find_envoy()
    changed = [name for name in found.difference.classes if name in found.after.views]
    if envoy is None or most <= 0:
        return {}
    said = {name: refusal(envoy, found.after, name) for name in changed[:most]}
    return {name: text for name, text in said.items() if text}


def _tell(found: Plan, refusals: dict[str, str]) -> None:
    from cli.history.changes import distinct, membership
    from cli.history.naming import type_name

    if found.pinned:
        output.line("the mesh is pinned: policy that is applied now has no effect until `meshlog unpin`")
    for name in found.ignored:
        output.line(f"not planned: {name} changes no proxy by itself")
    if found.nothing:
        output.line(f"nothing changes for any proxy (on top of {found.version})")
        return
    difference = found.difference
    concerned = [one for one in found.after.proxies.values() if one.workload_class in difference.classes]
    counts = f"{len(concerned)} of {len(found.after.proxies)} proxies" if found.whole else f"{len(concerned)} proxies"
    output.line(f"{counts} would see a change, in {len(difference.classes)} classes")
    for change, classes in list(distinct(difference).items())[:40]:
        where = classes[0] if len(classes) == 1 else f"{len(classes)} classes"
        output.line(f"  {change.verb:<7}  {type_name(change.type_url)}/{change.name}  ({where})")
    for sentence in membership(difference):
        output.line(f"  {sentence}")
    _consequences(found)
    for name, text in refusals.items():
        output.line(f"Envoy would refuse {name}: {text}")


def _consequences(found: Plan) -> None:
    for title, calls in (("newly allowed", found.calls.allowed), ("newly denied", found.calls.denied)):
        output.line()
        output.line(f"{title}: {len(calls)}")
        for sentence in calls[:25]:
            output.line(f"  {sentence}")
        if len(calls) > 25:
            output.line(f"  and {len(calls) - 25} more (-o json)")
    if found.seen.asked:
        counts = f"{len(found.seen.allowed)} newly allowed, {len(found.seen.denied)} newly denied"
        output.line()
        output.line(
            f"of {found.seen.asked} calls seen: {counts}, {found.seen.unknown} between names that are not there"
        )
        for sentence in found.seen.denied[:25]:
            output.line(f"  denied: {sentence}")
    if not found.calls.complete:
        output.line("  (too many calls to ask all of them)")
    output.line()
    output.line(f"connections that would end: {'none' if not found.drains else ''}")
    for drain in found.drains:
        what = f"those of {', '.join(drain.chains)}" if drain.chains else "all"
        output.line(f"  {drain.workload_class}, listener {drain.listener}: {what}")
    for one in found.left_out:
        output.line(f"would be left out: {one.key}: {one.sentence} [{one.code}]")


def _as_json(found: Plan, refusals: dict[str, str]) -> dict[str, Any]:
    return {
        "version": found.version,
        "pinned": found.pinned,
        "ignored": found.ignored,
        "classes": {
            name: [
                {"type": one.type_url, "name": one.name, "before": one.before, "after": one.after} for one in changes
            ]
            for name, changes in found.difference.classes.items()
        },
        "proxies": {key: list(moved) for key, moved in found.difference.proxies.items()},
        "allowed": found.calls.allowed,
        "denied": found.calls.denied,
        "asked": found.calls.asked,
        "seen": {
            "asked": found.seen.asked,
            "unknown": found.seen.unknown,
            "allowed": found.seen.allowed,
            "denied": found.seen.denied,
        },
        "drains": [
            {"class": one.workload_class, "listener": one.listener, "chains": one.chains} for one in found.drains
        ],
        "leftOut": [{"object": str(one.key), "code": one.code, "why": one.sentence} for one in found.left_out],
        "refused": refusals,
    }
