"""`meshlog bisect`: finds the first version for which a command fails."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.history.timeline import Timeline
    from cli.replay.trial_cluster import TrialCluster
    from cli.terminal.deadline import Deadline

SKIP = 125
_EPILOG = """\
COMMAND sees the version in files and in its environment:
  MESHLOG_VERSION    the version
  MESHLOG_OBJECTS    the objects of that version, one YAML file
  MESHLOG_PROXIES    a folder with what each proxy held, one YAML file for each class
  MESHLOG_LOG        an export of the log up to that version: every `meshlog` verb reads it
With --devcluster also $MESHLOG_STATE and $KUBECONFIG of the mesh that runs it.
It exits with 0 for good, 125 for cannot tell, anything else for bad; as with `git bisect run`.

exit code: 0 found, 1 it cannot be told, 2 bad input, 124 the log did not answer in time

example:
  meshlog bisect --good @-1h --bad HEAD -- meshlog why-not shop/web svc:shop/cart --path /items
  meshlog bisect --good 4700 --bad HEAD --devcluster shop.yaml -- meshlog exec shop/web -- curl -fs cart.shop/items
"""


def main(argv: Sequence[str]) -> int:
    """Search for the version. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog bisect",
        description="Find the first version for which a command fails.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--good", required=True, metavar="A", help="a version for which the command succeeds")
    parser.add_argument("--bad", required=True, metavar="B", help="a later one for which it fails")
    parser.add_argument(
        "--devcluster",
        type=Path,
        metavar="MANIFESTS",
        help="start a mesh of its own, apply these workloads, and put the policy of each version in force there",
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 60.0, "seconds until the first run of COMMAND, which takes as long as it takes")
    options = parser.parse_args(argv)

    from cli.history.timeline import Timeline

    async def work(deadline: Deadline) -> int:
        async with sources.opened(options.log) as source:
            timeline = Timeline(source)
            if options.devcluster is None:
                return await _search(timeline, options, None, deadline)
            from cli.kubernetes.manifest_files import read_manifests
            from cli.replay.trial_cluster import TrialCluster

            workloads = read_manifests(options.devcluster)
            await source.events.bounds()
            deadline.lift()
            with tempfile.TemporaryDirectory(prefix="meshlog-bisect-") as folder:
                cluster = TrialCluster(Path(folder) / "state")
                try:
                    await cluster.open(workloads)
                    return await _search(timeline, options, cluster, deadline)
                finally:
                    await cluster.close()

    return run(work, options.timeout)


async def _search(
    timeline: Timeline, options: argparse.Namespace, cluster: TrialCluster | None, deadline: Deadline
) -> int:
    from cli.history.versions import resolve
    from shared.errors import BadInputError

    good, bad = await resolve(timeline, options.good), await resolve(timeline, options.bad)
    if good >= bad:
        raise BadInputError("bisect/order", f"the good version ({good}) must be before the bad one ({bad})")
    versions = [good, *[found.commit.version async for found in timeline.commits(after=good, until=bad)]]
    deadline.lift()
    skipped: set[int] = set()
    low, high = 0, len(versions) - 1
    while high - low > 1:
        between = [index for index in range(low + 1, high) if versions[index] not in skipped]
        if not between:
            output.line(
                f"the first bad version is one of {versions[low + 1 : high + 1]}: those before it cannot be told"
            )
            return 1
        middle = between[len(between) // 2]
        code = await _try(timeline, versions[middle], options.command, cluster)
        result = "cannot tell" if code == SKIP else "bad" if code else "good"
        output.note(f"version {versions[middle]}: {result} ({high - low - 1} left)")
        if code == SKIP:
            skipped.add(versions[middle])
        elif code:
            high = middle
        else:
            low = middle
    output.line(f"{versions[high]} is the first bad version: meshlog show {versions[high]}")
    return 0


async def _try(timeline: Timeline, version: int, command: Sequence[str], cluster: TrialCluster | None) -> int:
    """Run the command on a version. Returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="meshlog-bisect-") as folder:
        environment = await _laid_out(timeline, version, folder)
        if cluster is not None:
            from cli.history.timeline import in_force

            await cluster.put_on(version, in_force(await timeline.state(version)).values())
            environment |= cluster.environment
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        return await process.wait()


async def _laid_out(timeline: Timeline, version: int, folder: str) -> dict[str, str]:
    from cli.history import yaml_text
    from cli.history.archive_export import export
    from cli.history.timeline import in_force

    objects, proxies, log = (os.path.join(folder, name) for name in ("objects.yaml", "proxies", "log"))  # noqa: PTH118
    os.mkdir(proxies)  # noqa: PTH102 (a new folder; methods of `Path` that block are not allowed in a coroutine)
    snapshot = await timeline.snapshot(version)
    found = in_force(await timeline.state(version))
    text = "---\n".join(yaml_text.yaml_of(yaml_text.object_of(found[key])) for key in sorted(found))
    _write(objects, text)
    for workload_class, view in snapshot.views.items():
        held = [
            yaml_text.decoded(snapshot.resources[type_url, name, digest])
            for type_url in sorted(view)
            for name, digest in sorted(view[type_url].items())
        ]
        _write(os.path.join(proxies, workload_class.replace("/", "_") + ".yaml"), yaml_text.yaml_of(held))  # noqa: PTH118
    await export(timeline.source, Path(log), last=version)
    return {"MESHLOG_VERSION": str(version), "MESHLOG_OBJECTS": objects, "MESHLOG_PROXIES": proxies, "MESHLOG_LOG": log}


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")
