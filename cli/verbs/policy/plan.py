"""`meshlog plan`: prints the effects of a change before it is applied."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.history.changes import ChangedResource
    from cli.history.log_source import LogSource
    from cli.kubernetes.api_client import Manifest
    from cli.plan.draining import Drain
    from cli.plan.planner import ChangePlan
    from cli.terminal.deadline import Deadline

_VALIDATED = 5
"""Default limit of the classes that a real Envoy validates: each takes 0.25 s."""
_TOLD = 25
"""Limit of the sentences of one sort that are printed."""
_LINES = 400
"""Limit of the lines of difference that are printed."""

_EPILOG = """\
Nothing is applied. Calls are asked with literal requests: for each method of each match of each route group a path
that it takes; where its expression changes, paths that only the one or only the other takes; and GET /.

exit code: 0 no proxy would see a change, 1 some would, 2 bad input, or Envoy would refuse, or objects would be left
out, 124 not known in time

examples:
  meshlog plan -f policy.yaml
  meshlog plan -f policy.yaml --diff                              the lines of the configuration which change
  meshlog plan --delete TrafficTarget/shop/allow --at @-1d
  meshlog plan -f policy.yaml --log exported.meshlog -o json      in a pipeline, without a cluster
  meshlog plan -f policy.yaml --server --log nats://nats:4222     in a pipeline, against the running mesh
  meshlog plan -f policy.yaml --calls seen.jsonl                  which of the calls seen would be denied
"""


def main(argv: Sequence[str]) -> int:
    """Print the plan. Returns the exit code."""
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
    parser.add_argument("--diff", action="store_true", help="show the lines of the sidecars' configuration that change")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 120.0)
    options = parser.parse_args(argv)
    if not options.filename and not options.delete:
        parser.error("give -f FILE or --delete KIND/NS/NAME")

    from cli.history.naming import parse_object
    from cli.history.object_states import newest_event
    from cli.history.timeline import Timeline
    from cli.history.versions import resolve
    from cli.kubernetes.manifest_files import read_manifests
    from cli.kubernetes.manifest_types import shaped
    from cli.plan.observed_calls import read_calls
    from cli.plan.planner import plan

    put = shaped([one for path in options.filename for one in read_manifests(path)])
    drop = [parse_object(text) for text in options.delete]
    seen = read_calls(options.calls) if options.calls is not None else []

    async def work(_: Deadline) -> int:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            version = await resolve(timeline, options.at)
            if options.at == "HEAD":
                version = max(version, await newest_event(source))
            admitted = await _admitted(options, source, put) if options.server else put
            found = await plan(timeline, version, admitted, drop, seen=seen)
        refusals = _refusals(found, options.envoys)
        if options.output == "json":
            output.json(_as_json(found, refusals, diff=options.diff), indent=2)
        else:
            _tell(found, refusals)
            if options.diff:
                _lines(found)
        if refusals or found.left_out:
            return 2
        return 0 if found.nothing else 1

    return run(work, options.timeout, of="the log or the Kubernetes API" if options.server else "the log")


async def _admitted(options: argparse.Namespace, source: LogSource, put: list[Manifest]) -> list[Manifest]:
    """Return the objects as the API server would store them, by a dry run.

    Raises `BadInputError` if the log is behind the API server: the plan would start from an outdated state.
    """
    from cli.arrival.recorded import Recorder
    from cli.cluster.target import session
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


def _refusals(found: ChangePlan, most: int) -> dict[str, str]:
    from cli.plan.envoy_validation import find_envoy, refusal

    envoy = find_envoy()
    changed = [name for name in found.difference.classes if name in found.after.views]
    if envoy is None or most <= 0:
        return {}
    errors = {name: refusal(envoy, found.after, name) for name in changed[:most]}
    return {name: text for name, text in errors.items() if text}


def _tell(found: ChangePlan, refusals: dict[str, str]) -> None:
    from cli.history.changes import distinct, membership
    from cli.history.naming import type_name

    if found.pinned:
        output.line("the mesh is pinned: policy that is applied now has no effect until `meshlog unpin`")
    for warning in found.warnings:
        output.line(f"warning: {warning}")
    for name in found.ignored:
        output.line(f"not planned: {name} changes no proxy by itself")
    if found.nothing:
        output.line(f"nothing changes for any proxy (on top of {found.version})")
        return
    difference = found.difference
    concerned = [one for one in found.after.proxies.values() if one.workload_class in difference.classes]
    counts = f"{len(concerned)} of {len(found.after.proxies)} proxies" if found.whole else f"{len(concerned)} proxies"
    output.line(f"{counts} would see a change, in {len(difference.classes)} classes")
    changes = list(distinct(difference).items())[:40]
    rows = [(one.verb, f"{type_name(one.type_url)}/{one.name}", f"({_where(classes)})") for one, classes in changes]
    output.columns(rows, least=(7,))
    for sentence in membership(difference):
        output.line(f"  {sentence}")
    _consequences(found)
    for name, text in refusals.items():
        output.line(f"Envoy would refuse {name}: {text}")


def _where(classes: list[str]) -> str:
    return classes[0] if len(classes) == 1 else f"{len(classes)} classes"


def _some(lines: Iterable[str]) -> None:
    """Print the first lines, and the number of those that are left out."""
    listed = list(lines)
    output.lines(listed[:_TOLD])
    if len(listed) > _TOLD:
        output.line(f"  and {len(listed) - _TOLD} more (-o json)")


def _consequences(found: ChangePlan) -> None:
    calls = found.calls
    titled = [("newly allowed", calls.allowed), ("newly denied", calls.denied)]
    if calls.shared:
        titled.append(("shared otherwise", calls.shared))
    for title, sentences in titled:
        output.line()
        output.line(f"{title}: {len(sentences)}")
        _some(f"  {sentence}" for sentence in sentences)
    _seen(found)
    if not calls.complete:
        output.line("  (too many calls to ask all of them)")
    if calls.unasked:
        output.line(f"  (not asked, for their expressions are not judged: {', '.join(calls.unasked[:5])})")
    drains = found.drains
    output.line()
    output.line("connections that would end:" if drains.found else "connections that would end: none")
    _some(f"  {drained(drain)}" for drain in drains.found)
    _some(f"leaves the mesh: {name}; it keeps what it holds until its pod is restarted" for name in drains.leaving)
    output.lines(f"would be left out: {one.key}: {one.sentence} [{one.code}]" for one in found.left_out)


def _seen(found: ChangePlan) -> None:
    if not found.seen.asked:
        return
    counts = f"{len(found.seen.allowed)} newly allowed, {len(found.seen.denied)} newly denied"
    output.line()
    output.line(f"of {found.seen.asked} calls seen: {counts}, {found.seen.unknown} between names that are not there")
    _some(f"  denied: {sentence}" for sentence in found.seen.denied)


def drained(drain: Drain) -> str:
    """Format one listener whose connections end as a sentence."""
    moves = f" -> {drain.becomes}" if drain.becomes != drain.workload_class else ""
    proxies = f"{drain.proxies} proxies" if drain.proxies != 1 else "1 proxy"
    what = "all, for the listener goes" if drain.goes else "all"
    chains = f"those of {', '.join(drain.chains)}" if drain.chains else what
    return f"{drain.workload_class}{moves} ({proxies}), listener {drain.listener}: {chains}"


def _lines(found: ChangePlan) -> None:
    """Print the changed lines of the configuration, each resource once."""
    from cli.history.changes import distinct
    from cli.history.naming import type_name

    left = _LINES
    for change, classes in distinct(found.difference).items():
        text = _diff(found, change)
        if not text:
            continue
        lines = text.splitlines()
        output.line()
        output.line(f"{change.verb} {type_name(change.type_url)}/{change.name}  ({_where(classes)})")
        output.block("\n".join(lines[:left]))
        left -= len(lines)
        if left <= 0:
            output.line(f"more than {_LINES} lines differ: all of them are in -o json")
            return


def _diff(found: ChangePlan, change: ChangedResource) -> str:
    from cli.history import yaml_text

    old = found.before.resources.get((change.type_url, change.name, change.before))
    new = found.after.resources.get((change.type_url, change.name, change.after))
    sides = [yaml_text.decoded(one) if one is not None else {} for one in (old, new)]
    return yaml_text.difference(*sides, names=(f"{found.version}", "planned"))


def _as_json(found: ChangePlan, refusals: dict[str, str], *, diff: bool) -> dict[str, Any]:
    from cli.history.changes import distinct
    from cli.history.naming import type_name

    told = distinct(found.difference) if diff else {}
    lines = [
        {
            "type": type_name(one.type_url),
            "name": one.name,
            "classes": classes,
            "lines": _diff(found, one).splitlines(),
        }
        for one, classes in told.items()
    ]
    return {
        "version": found.version,
        "pinned": found.pinned,
        "ignored": found.ignored,
        "warnings": found.warnings,
        "classes": {
            name: [
                {"type": one.type_url, "name": one.name, "before": one.before, "after": one.after} for one in changes
            ]
            for name, changes in found.difference.classes.items()
        },
        "proxies": {key: list(moved) for key, moved in found.difference.proxies.items()},
        "allowed": found.calls.allowed,
        "denied": found.calls.denied,
        "shared": found.calls.shared,
        "unasked": found.calls.unasked,
        "asked": found.calls.asked,
        "seen": {
            "asked": found.seen.asked,
            "unknown": found.seen.unknown,
            "allowed": found.seen.allowed,
            "denied": found.seen.denied,
        },
        "drains": [
            {
                "class": one.workload_class,
                "becomes": one.becomes,
                "proxies": one.proxies,
                "listener": one.listener,
                "chains": one.chains,
                "goes": one.goes,
            }
            for one in found.drains.found
        ],
        "leaving": found.drains.leaving,
        "leftOut": [{"object": str(one.key), "code": one.code, "why": one.sentence} for one in found.left_out],
        "refused": refusals,
        **({"diff": lines} if diff else {}),
    }
