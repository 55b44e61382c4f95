"""`meshlog apply`: applies objects to the embedded mesh."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import TIMED_OUT, Deadline, add_timeout, run

if TYPE_CHECKING:
    from cli.arrival.tracker import Rollout
    from cli.history.log_source import LogSource
    from cli.kubernetes.api_client import Api, AppliedObject, Manifest


_EPILOG = """\
exit code:
  0    applied; with --wait: in the log as the API keeps it, and acknowledged by every proxy that it concerns
  1    with --wait: a proxy refuses, or the mesh is pinned to a past version, so that policy is recorded only
  2    bad input; with --wait: an object is left out by the compiler, in whole or in part
  124  not all applied in time; with --wait: not in the log, in no version, or not acknowledged in time

examples:
  meshlog apply -f policy.yaml --wait
  meshlog apply -f app/ -f policy/ --wait --timeout 10
"""


def main(argv: Sequence[str]) -> int:
    """Apply files and folders as one change set; with --wait also until every affected proxy has acknowledged it."""
    parser = argparse.ArgumentParser(
        prog="meshlog apply",
        description="Apply YAML to the embedded mesh, as `kubectl apply --server-side` does.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-f", "--filename", type=Path, action="append", required=True, help="a file or a folder")
    parser.add_argument("--wait", action="store_true", help="wait until every proxy concerned has acknowledged")
    add_timeout(parser, 30.0)
    options = parser.parse_args(argv)

    from cli.kubernetes.manifest_files import read_manifests

    manifests: list[Manifest] = [one for path in options.filename for one in read_manifests(path)]
    mark_together(manifests)
    peers = "the Kubernetes API or the log"
    return run(lambda limit: _apply(manifests, limit, wait=options.wait), options.timeout, of=peers)


async def _apply(manifests: list[Manifest], deadline: Deadline, *, wait: bool) -> int:
    """Apply the objects; with `wait` wait until all of them have arrived."""
    from cli.embedded import lifecycle
    from cli.kubernetes import kubeconfig
    from cli.kubernetes.api_client import connect

    lifecycle.running()
    began, until, seconds = time.time_ns(), time.monotonic() + deadline.left, deadline.seconds
    async with connect(kubeconfig.read(lifecycle.state_directory() / lifecycle.KUBECONFIG)) as api:
        applied: list[AppliedObject] = []
        try:
            async with asyncio.timeout(deadline.left):
                for manifest in manifests:
                    applied.append(one := await api.apply(manifest))
                    output.line(f"{one.kind} {one.namespace}/{one.name}: applied".replace(" /", " "))
                    for warning in one.warnings:
                        output.note(f"warning: {one.kind} {one.name}: {warning}")
        except TimeoutError:
            output.line(f"{len(applied)} of {len(manifests)} objects applied after {seconds:g} s: the API is slow")
            return TIMED_OUT
        if not wait:
            return 0
        output.note("waiting for acknowledgements")
        return await arrival(api, applied, began, until, seconds)


async def arrival(api: Api, applied: Sequence[AppliedObject], began: int, until: float, seconds: float) -> int:
    """Wait until the change set has arrived. Returns the exit code. `until`: monotonic clock, seconds."""
    from cli.arrival.recorded import Recorder
    from cli.arrival.wait import arrived
    from cli.embedded import lifecycle
    from cli.history.log_source import NO_LOG, opened
    from shared.errors import BadInputError
    from shared.eventlog.protocol import EventLogError

    try:
        async with asyncio.timeout(until - time.monotonic()) as limit, opened("") as source:
            recorder = Recorder(api, source.events, source.streams, lifecycle.CLUSTER, source.about.namespace)
            sequence = await recorder.sequence(applied)
            limit.reschedule(None)
            if not sequence:
                output.line("nothing of it changes a proxy by itself")
                return 0
            found = await arrived(source, sequence, within=max(0.0, until - time.monotonic()))
            return await _tell(source, applied, found, began, seconds)
    except TimeoutError:
        output.line(f"applied, but not in the log after {seconds:g} s: does the ingestor run? meshlog status")
    except (EventLogError, BadInputError) as error:
        if isinstance(error, BadInputError) and error.code != NO_LOG:
            raise
        output.line("applied, but the log cannot be read now, so nothing is known of its arrival: meshlog status")
    return TIMED_OUT


async def _tell(
    source: LogSource, applied: Sequence[AppliedObject], found: Rollout | None, began: int, seconds: float
) -> int:
    """Print how far the change set has arrived. Returns the exit code."""
    from cli.arrival.wait import BAD_INPUT, REFUSED, exit_code, left_out
    from cli.state.mesh_status import pinned
    from shared.records.events import ObjectKey
    from shared.records.pins import PINNED_KINDS

    _tell_rollout(found, began, seconds)
    code = exit_code(found)
    cluster = source.about.cluster
    out = await left_out(source, {ObjectKey(cluster, one.kind, one.namespace, one.name) for one in applied})
    output.lines(f"left out: {sentence}" for sentence in out)
    pin = await pinned(source) if any(one.kind in PINNED_KINDS for one in applied) else ""
    if pin:
        output.line(f"recorded only: the mesh is {pin}; policy is in force after `meshlog unpin`")
    return code or (BAD_INPUT if out else REFUSED if pin else 0)


def _tell_rollout(found: Rollout | None, began: int, seconds: float) -> None:
    if found is None:
        output.line(f"no version holds it after {seconds:g} s: does a compiler run? meshlog status")
    elif found.complete:
        took = (found.last_ack - began) / 1e6
        within = f"all acknowledged within {took:.1f} ms" if took > 0 else "all had acknowledged it before"
        acknowledged = within if found.concerned else "nothing to acknowledge"
        output.line(f"version {found.version}: {found.concerned} proxies concerned, {acknowledged}")
    else:
        missing = found.refusals or [key.partition("/")[2] for key in found.waiting]
        word = "refused by" if found.refusals else f"not acknowledged within {seconds:g} s by"
        output.line(f"version {found.version}: {word} {', '.join(missing)}")
        output.line(f"more: meshlog rollout {found.version}")


def mark_together(manifests: Sequence[Manifest]) -> None:
    """Annotate all objects that can change a proxy as one change set, so that it reaches proxies in one version.

    Namespaces are left out: pods are admitted only once the log has their namespace, so a set of both would block.
    """
    from deploy.install.profile import Profile
    from services.ingestor.core.kinds import is_followed
    from shared.projected_objects import ANNOTATION_CHANGE_SET
    from shared.records.change_set_annotation import stamp

    home = Profile().namespace
    together = [
        one
        for one in manifests
        if one["kind"] != "Namespace"
        and is_followed(
            one["kind"], one["metadata"].get("namespace") or "default", one["metadata"]["name"], mesh_namespace=home
        )
    ]
    if len(together) < 2:
        return
    namespaces = [one["metadata"].get("namespace") or "default" for one in together]
    annotation = stamp(f"apply-{secrets.token_hex(4)}", namespaces)
    for one in together:
        annotations = one["metadata"].setdefault("annotations", {}) or {}
        one["metadata"]["annotations"] = {**annotations, ANNOTATION_CHANGE_SET: annotation}
