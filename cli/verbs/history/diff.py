"""`meshlog diff`: prints the differences between two versions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.history.changes import ChangedResource
    from cli.history.timeline import Timeline
    from cli.terminal.deadline import Deadline
    from shared.records.snapshot import Snapshot

_EPILOG = """\
A and B are numbers, HEAD, HEAD~3, @2026-11-20T03:12 (UTC) or @-10m.

exit code: 0 nothing differs, 1 something does, 2 bad input

examples:
  meshlog diff HEAD~1 HEAD
  meshlog diff @-10m HEAD --object TrafficTarget/shop/allow
  meshlog diff 4700 4711 --proxy shop/cart-7c9d      down to the lines of Envoy's configuration
"""


def main(argv: Sequence[str]) -> int:
    """Print the differences. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog diff",
        description="Say what differs between two versions: objects, classes, proxies.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--object", default="", metavar="KIND/NS/NAME", help="only this object, line by line")
    parser.add_argument("--proxy", default="", metavar="NS/POD", help="only what this proxy holds, line by line")
    parser.add_argument("--class", dest="workload_class", default="", metavar="CLASS", help="the same of a class")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 60.0)
    options = parser.parse_args(argv)

    from cli.history.timeline import Timeline
    from cli.history.versions import resolve

    async def work(_: Deadline) -> int:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            a, b = await resolve(timeline, options.a), await resolve(timeline, options.b)
            if options.object:
                return await _object(timeline, a, b, options.object)
            if options.proxy or options.workload_class:
                return await _view(timeline, a, b, options.proxy, options.workload_class)
            return await _all(timeline, a, b)

    return run(work, options.timeout)


async def _object(timeline: Timeline, a: int, b: int, named: str) -> int:
    from cli.history import naming, yaml_text
    from cli.history.changes import object_at

    key = naming.parse_object(named)
    before, after = await object_at(timeline, *key, a), await object_at(timeline, *key, b)
    text = yaml_text.difference(yaml_text.object_of(before), yaml_text.object_of(after), names=(f"{a}", f"{b}"))
    output.block(text) if text else output.line(f"{named}: the same at {a} and {b}")
    if after is not None and text:
        output.line()
        output.line(f"{naming.line(after, after.event.key, after.sequence)}")
    return 1 if text else 0


async def _view(timeline: Timeline, a: int, b: int, proxy: str, workload_class: str) -> int:
    from cli.history import naming, yaml_text
    from cli.history.changes import changed_names

    before, after = await timeline.snapshot(a), await timeline.snapshot(b)
    key = naming.parse_proxy(proxy, timeline.source.about.cluster) if proxy else ""
    views: list[dict[str, dict[str, str]]] = []
    for snapshot in (before, after):
        held = snapshot.proxies.get(key)
        views.append(snapshot.views.get(held.workload_class if held else workload_class, {}))
    if proxy and not any(views):
        naming.class_of(after, key)
    found = changed_names(*views)
    for change in found:
        output.line(f"{change.verb} {naming.type_name(change.type_url)}/{change.name}")
        old = before.resources.get((change.type_url, change.name, change.before))
        new = after.resources.get((change.type_url, change.name, change.after))
        if old is not None and new is not None:
            output.block(yaml_text.difference(yaml_text.decoded(old), yaml_text.decoded(new), names=(f"{a}", f"{b}")))
    if not found:
        output.line(f"{proxy or workload_class}: the same at {a} and {b}")
    return 1 if found else 0


async def _all(timeline: Timeline, a: int, b: int) -> int:
    from cli.history import naming
    from cli.history.changes import between, distinct, membership, objects_between

    before, after = await timeline.snapshot(a), await timeline.snapshot(b)
    objects = await objects_between(timeline, min(a, b), max(a, b))
    found = between(before, after)
    output.line(f"from version {a} to {b}: {len(objects)} objects changed, {len(found.classes)} classes see it")
    for key, happened in list(objects.items())[:30]:
        times = f" ({len(happened)} times)" if len(happened) > 1 else ""
        output.line(f"  {naming.line(happened[-1], key, happened[-1].sequence)}{times}")
    if len(objects) > 30:
        output.line(f"  and {len(objects) - 30} more: meshlog log --after {a} --until {b}")
    _resources(distinct(found), after)
    for sentence in membership(found):
        output.line(sentence)
    for key, (was, now) in found.proxies.items():
        name = key.partition("/")[2]
        output.line(f"proxy {name}: " + (f"{was} -> {now}" if was and now else f"new, {now}" if now else "gone"))
    for one in found.newly_left_out:
        output.line(f"left out: {one.key}: {one.sentence} [{one.code}]")
    for one in found.no_longer_left_out:
        output.line(f"no longer left out: {one.key} [{one.code}]")
    return 0 if found.nothing and not objects else 1


def _resources(changes: dict[ChangedResource, list[str]], after: Snapshot) -> None:
    from cli.history import naming

    counts = dict.fromkeys(after.views, 0)
    for proxy in after.proxies.values():
        counts[proxy.workload_class] += 1
    if changes:
        output.line()
        output.line("configuration:")
    rows: list[tuple[str, str, str]] = []
    for change, classes in list(changes.items())[:60]:
        proxies = sum(counts.get(name, 0) for name in classes)
        where = classes[0] if len(classes) == 1 else f"{len(classes)} classes"
        name = f"{naming.type_name(change.type_url)}/{change.name}"
        rows.append((change.verb, name, f"({where}, {proxies} proxies)"))
    output.columns(rows, least=(7,))
    if len(changes) > 60:
        output.line(f"  and {len(changes) - 60} more")
