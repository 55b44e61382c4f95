"""`meshlog status`: shows the state of the mesh and the findings of its checks on one screen."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.health.collect import Opening, Session
    from cli.health.facts import HealthFacts, LogFacts
    from cli.health.finding import CheckResult
    from cli.history.log_source import LogSource
    from cli.kubernetes.api_client import Api

_EVERY = 1.0
"""Seconds between two refreshes of --watch."""
_EPILOG = """\
The checks, what each finding means and the shape of -o json: docs/health.md. What cannot be read (the log, Kubernetes)
is a finding itself, and the rest is told all the same.

exit code: 0 nothing was found, 1 something was, 2 there is no mesh

examples:
  meshlog status
  meshlog status -w
  meshlog status --log tls://nats.example:4222 --kubeconfig ~/.kube/config -o json
"""


class _StatusTarget(msgspec.Struct, frozen=True):
    """The mesh whose status is read."""

    session: Session | None
    opening: Opening | None
    listeners: dict[str, Any] | None = None
    kubeconfig: str = ""


def main(argv: Sequence[str]) -> int:
    """Print the state of the mesh. Returns 0 if it is healthy, 1 if there are findings, 2 if there is no mesh."""
    parser = argparse.ArgumentParser(
        prog="meshlog status",
        description="Say on one screen whether the mesh is well: services, log, versions, proxies, certificates.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", "--output", choices=["table", "json", "kubeconfig"], default="table", help="kubeconfig: only its path"
    )
    parser.add_argument("-w", "--watch", action="store_true", help="look again each second until Ctrl-C")
    add_timeout(parser, 10.0, "seconds that a look may take")
    from cli.cluster.target import add_target
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_target(parser)
    options = parser.parse_args(argv)
    place = _place(options)
    if options.output == "kubeconfig":
        output.line(place.kubeconfig)
        return 0
    return _look(options, place)


def _place(options: argparse.Namespace) -> _StatusTarget:
    """Return the mesh of the arguments. Raises `BadInputError` if none is named and none runs on this machine."""
    from cli.cluster.target import log_of, session
    from cli.embedded import lifecycle

    def opened(where: str) -> Opening:
        from cli.history import log_source as sources

        def opening(within: float) -> AbstractAsyncContextManager[LogSource]:
            return sources.opened(where, within=within)

        return opening

    def asked() -> AbstractAsyncContextManager[Api]:
        return session(options)

    named = options.kubeconfig is not None or bool(options.context)
    if options.log:
        return _StatusTarget(asked if named else None, opened(options.log))
    if named:
        log = log_of(options)
        return _StatusTarget(asked, None if log is None else opened(log))
    found = lifecycle.running()
    options.kubeconfig = lifecycle.state_directory() / lifecycle.KUBECONFIG
    return _StatusTarget(asked, opened(""), found["listeners"], str(options.kubeconfig))


def _look(options: argparse.Namespace, place: _StatusTarget) -> int:
    from cli.health.collect import LOOK_GRACE

    cache: dict[int, bool] = {}
    while True:
        of = "the Kubernetes API or the log"
        code = run(lambda _: _once(options, place, cache), options.timeout, of=of, grace=LOOK_GRACE)
        if not options.watch:
            return code
        time.sleep(_EVERY)


async def _once(options: argparse.Namespace, place: _StatusTarget, cache: dict[int, bool]) -> int:
    from cli.health.checks import judged
    from cli.health.collect import look
    from cli.health.findings_output import well

    facts = await look(
        place.session,
        place.opening,
        namespace=options.mesh_namespace,
        mesh_name=options.mesh_name,
        within=options.timeout,
        cache=cache,
    )
    results = judged(facts)
    if options.output == "json":
        output.json(
            {"running": True, "listeners": place.listeners, "kubeconfig": place.kubeconfig} | _as_json(facts, results),
            flush=True,
        )
    else:
        if options.watch:
            output.clear()
        _table(facts, results, place)
    return 0 if well(results) else 1


def _as_json(facts: HealthFacts, results: Sequence[CheckResult]) -> dict[str, Any]:
    from cli.health.findings_output import as_json

    cluster = facts.cluster
    services = [
        {"name": one.name, "ready": one.ready, "wanted": one.wanted} for one in (cluster.workloads if cluster else [])
    ]
    told = {**as_json(results), "services": services}
    return told if facts.log is None else {**told, **_of_log(facts.log)}


def _of_log(log: LogFacts) -> dict[str, Any]:
    state = log.standing
    return {
        "version": state.version,
        "published": state.published,
        "build": state.build,
        "events": state.events,
        "pinned": state.pinned,
        "meshConfig": state.mesh_config,
        "leaders": {one.service: "" if one.vacant else one.holder for one in log.leases or ()},
        "rotation": None if log.rotation is None else msgspec.to_builtins(log.rotation),
        "lag": [{"service": one.service, "behind": one.behind, "what": one.sentence} for one in log.lags],
        "rebuiltFrom": state.rebuilt_from,
        "objectsFrom": state.objects_from,
        "streams": [{"name": one.name, "first": one.first, "last": one.last} for one in state.streams],
        "certificates": {
            "valid": state.certificates.valid,
            "soonest": state.certificates.soonest,
            "soonestOf": state.certificates.soonest_of,
            "refused": state.certificates.refused,
        },
        "proxies": [
            {
                "proxy": one.proxy,
                "state": one.state,
                "reason": one.reason,
                "acknowledged": one.acknowledged,
                "edge": one.edge,
                "class": one.workload_class,
                "certificateUntil": one.certificate_until,
            }
            for one in state.proxies
        ],
        "foreign": [{"stream": name, "records": count, "newest": what} for name, count, what in state.foreign],
        "quarantine": [{"object": name, "code": code, "why": sentence} for name, code, sentence in state.quarantine],
    }


def _table(facts: HealthFacts, results: Sequence[CheckResult], place: _StatusTarget) -> None:
    from cli.health.findings_output import headline, tell
    from cli.verbs.state.proxies import table

    log, cluster = facts.log, facts.cluster
    if log is not None:
        state = log.standing
        in_sync = sum(proxy.state == "in sync" for proxy in state.proxies)
        output.line(f"version {state.version}: {in_sync} of {len(state.proxies)} proxies in sync")
    output.line(headline(results))
    tell(results)
    output.line()
    if cluster is not None:
        output.line("services: " + ", ".join(f"{one.name} {one.ready}/{one.wanted}" for one in cluster.workloads))
    if log is not None:
        _lines(log)
        if log.standing.proxies:
            output.line()
            table(sorted(log.standing.proxies, key=lambda one: (one.state == "in sync", one.proxy)), wide=False)
    if place.kubeconfig:
        output.line(f"kubeconfig: {place.kubeconfig}")


def _lines(log: LogFacts) -> None:
    from cli.terminal.times import clock

    state = log.standing
    when = f"published {clock(state.published)} by build {state.build}" if state.version else "nothing is published yet"
    output.line(f"{when}; newest event {state.events}")
    if log.leases:
        output.line("leaders: " + ", ".join(f"{one.service} {'-' if one.vacant else one.holder}" for one in log.leases))
    for one in log.lags:
        output.line(f"  {one.service}: {one.sentence}")
    if not state.mesh_config:
        output.line("MeshConfig: there is none, so the defaults are in force: what no TrafficTarget allows is denied")
    known = (
        f"objects from event {state.objects_from} on" if state.objects_from <= state.events else "no objects any more"
    )
    output.line(f"history: versions from {state.rebuilt_from or state.version} on can be rebuilt, {known}")
    output.line("streams: " + ", ".join(f"{one.name} {one.first}-{one.last}" for one in state.streams))
    for name, count, what in state.foreign:
        output.line(f"passed over: {count} records of {name} that no service wrote; {what}")
    certs = state.certificates
    soonest = f", the next to end is {certs.soonest_of}'s at {clock(certs.soonest * 10**9)}" if certs.valid else ""
    output.line(f"certificates: {certs.valid} valid{soonest}; {certs.refused} requests refused")
    if log.rotation is not None:
        output.line(f"roots: {', '.join(log.rotation.roots)}; rotation: {log.rotation.step}")
