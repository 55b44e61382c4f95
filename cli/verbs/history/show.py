"""`meshlog show`: prints one version: its changes, an object in it, or the configuration of a proxy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.history.timeline import Timeline
    from cli.terminal.deadline import Deadline

_EPILOG = """\
VERSION is a number, HEAD, HEAD~3, @2026-11-20T03:12 (UTC) or @-10m.

examples:
  meshlog show HEAD                                        the newest version: causes, changes, who was concerned
  meshlog show @-10m --object TrafficTarget/shop/allow     an object as it was
  meshlog show 4711 --proxy shop/cart-7c9d                 what the proxy held
  meshlog show 4711 --proxy shop/cart-7c9d route/inbound\\|8080
"""


def main(argv: Sequence[str]) -> int:
    """Print the version. Returns 0, or 2 if what is named does not exist."""
    parser = argparse.ArgumentParser(
        prog="meshlog show",
        description="Show a version of the mesh.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", metavar="VERSION")
    parser.add_argument("--object", default="", metavar="KIND/NS/NAME", help="this object as it was")
    parser.add_argument("--proxy", default="", metavar="NS/POD", help="what this proxy held")
    parser.add_argument("resource", nargs="?", default="", metavar="TYPE/NAME", help="with --proxy: this resource")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 60.0)
    options = parser.parse_intermixed_args(list(argv))
    if options.resource and not options.proxy:
        parser.error("TYPE/NAME needs --proxy")

    from cli.history.timeline import Timeline
    from cli.history.versions import resolve

    async def work(_: Deadline) -> int:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            version = await resolve(timeline, options.version)
            if options.object:
                return await _object(timeline, version, options.object, options.version)
            if options.proxy:
                return await _proxy(timeline, version, options.proxy, options.resource)
            return await _version(timeline, version)

    return run(work, options.timeout)


async def _object(timeline: Timeline, version: int, named: str, asked: str) -> int:
    from cli.history import naming, yaml_text
    from cli.history.changes import object_at

    until = int(asked) if asked.isdecimal() else version
    found = await object_at(timeline, *naming.parse_object(named), until)
    if found is None:
        output.line(f"{named}: the log knows nothing of it up to {until}")
        return 1
    output.line(f"# {naming.line(found, found.event.key, found.sequence)}")
    if body := yaml_text.object_of(found):
        output.yaml(body)
    return 0


async def _proxy(timeline: Timeline, version: int, named: str, resource: str) -> int:
    from cli.history import naming, yaml_text

    snapshot = await timeline.snapshot(version)
    workload_class = naming.class_of(snapshot, naming.parse_proxy(named, timeline.source.about.cluster))
    view = snapshot.views[workload_class]
    if not resource:
        output.line(f"{named} at version {snapshot.version}, class {workload_class}")
        for type_url in sorted(view):
            for name, digest in sorted(view[type_url].items()):
                output.line(f"  {digest}  {naming.type_name(type_url)}/{name}")
        output.line()
        output.line(f"why: meshlog why {named} TYPE/NAME --at {snapshot.version}")
        return 0
    type_url, name = naming.parse_resource(resource)
    digest = view.get(type_url, {}).get(name)
    if digest is None:
        output.line(f"{named} holds no {resource} at version {snapshot.version}")
        return 1
    output.line(f"# {resource} of {named} at version {snapshot.version}, {digest}")
    output.yaml(yaml_text.decoded(snapshot.resources[type_url, name, digest]))
    return 0


async def _version(timeline: Timeline, version: int) -> int:
    from cli.history import naming
    from cli.terminal.times import clock

    published = await timeline.commit(version)
    snapshot = await timeline.snapshot(version)
    commit = published.commit
    concerned = snapshot.concerned(commit)
    output.line(f"version {version}, published {clock(published.time)} by build {commit.build}, after {commit.parent}")
    output.line()
    output.line("because of:")
    for cause in commit.causes[:20]:
        output.line(f"  {naming.line(await timeline.happened(cause.sequence), cause.key, cause.sequence)}")
    if len(commit.causes) > 20:
        output.line(f"  and {len(commit.causes) - 20} more: meshlog log --after {commit.parent} --until {version}")
    if commit.resources:
        output.line()
        output.line("rendered:")
        for one in commit.resources[:20]:
            output.line(f"  {one.hash}  {naming.type_name(one.type_url)}/{one.name}")
        if len(commit.resources) > 20:
            output.line(f"  and {len(commit.resources) - 20} more")
    came = [key for key, proxy in commit.proxies.items() if proxy is not None]
    output.line()
    moved = f" ({len(came)} new or moved)" if came else ""
    output.line(f"concerned: {len(concerned)} of {len(snapshot.proxies)} proxies{moved}")
    for one in commit.quarantine or []:
        output.line(f"left out: {one.key}: {one.sentence} [{one.code}]")
    output.line()
    output.line(f"meshlog diff {commit.parent} {version}    meshlog rollout {version}")
    return 0
