"""`meshlog status`: one screen: is everything in sync, and what is not."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli import output

if TYPE_CHECKING:
    from cli.history.lag import Lag
    from cli.history.source import Source
    from cli.history.standing import Standing

_EVERY = 1.0
"""Seconds between two looks of --watch."""


def main(argv: Sequence[str]) -> int:
    """Print the state of the mesh; 0 if every proxy is in sync, 1 if not, 2 if there is no mesh."""
    parser = argparse.ArgumentParser(
        prog="meshlog status",
        description="Show the mesh on one screen: versions, proxies, services, certificates, what was left out.",
        epilog="exit code: 0 every proxy is in sync, 1 one is not, 2 there is no mesh",
    )
    parser.add_argument(
        "-o", "--output", choices=["table", "json", "kubeconfig"], default="table", help="kubeconfig: only its path"
    )
    parser.add_argument("-w", "--watch", action="store_true", help="look again each second until Ctrl-C")
    from cli.history import source as sources

    sources.add_arguments(parser)
    options = parser.parse_args(argv)

    from cli import embedded

    found = {} if options.log else embedded.running()
    path = str(embedded.state_directory() / embedded.KUBECONFIG) if found else ""
    if options.output == "kubeconfig":
        output.line(path)
        return 0

    async def look() -> int:
        async with sources.opened(options.log) as source:
            cache: dict[int, bool] = {}
            while True:
                state, services, behind = await _look(source, cache, embedded=bool(found))
                if options.output == "json":
                    told = _as_json(state, services, behind)
                    output.json({"running": True, "listeners": found.get("listeners"), "kubeconfig": path, **told})
                else:
                    if options.watch:
                        output.clear()
                    _table(state, services, behind, path)
                if not options.watch:
                    return 0 if all(proxy.state == "in sync" for proxy in state.proxies) else 1
                await asyncio.sleep(_EVERY)

    return asyncio.run(look())


async def _look(
    source: Source, cache: dict[int, bool], *, embedded: bool
) -> tuple[Standing, list[dict[str, Any]], list[Lag]]:
    from cli.history.lag import lags
    from cli.history.standing import standing, tracked

    tracker = await tracked(source)
    services = await _services() if embedded else []
    return await standing(source, tracker), services, await lags(source, tracker, cache)


async def _services() -> list[dict[str, Any]]:
    """The control plane's workloads, as Kubernetes sees them; none if its API does not answer."""
    from cli import api, embedded, kubeconfig
    from deploy.install.control_plane import Profile

    found: list[dict[str, Any]] = []
    with contextlib.suppress(api.ApiRefusedError):
        async with api.connect(kubeconfig.read(embedded.state_directory() / embedded.KUBECONFIG)) as session:
            for plural in ("deployments", "statefulsets"):
                listing = await session.get(f"/apis/apps/v1/namespaces/{Profile().namespace}/{plural}")
                for one in listing["items"]:
                    status = one.get("status", {})
                    ready = status.get("availableReplicas", status.get("readyReplicas", 0))
                    found.append({"name": one["metadata"]["name"], "ready": ready, "wanted": one["spec"]["replicas"]})
    return found


def _as_json(state: Standing, services: list[dict[str, Any]], behind: list[Lag]) -> dict[str, Any]:
    return {
        "version": state.version,
        "published": state.published,
        "build": state.build,
        "events": state.events,
        "pinned": state.pinned,
        "meshConfig": state.mesh_config,
        "services": services,
        "lag": [{"service": one.service, "behind": one.behind, "what": one.sentence} for one in behind],
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
            }
            for one in state.proxies
        ],
        "foreign": [{"stream": name, "records": count, "newest": what} for name, count, what in state.foreign],
        "quarantine": [{"object": name, "code": code, "why": sentence} for name, code, sentence in state.quarantine],
    }


def _table(state: Standing, services: list[dict[str, Any]], behind: list[Lag], kubeconfig: str) -> None:
    from cli.moments import clock
    from cli.verbs.proxies import table

    in_sync = sum(proxy.state == "in sync" for proxy in state.proxies)
    output.line(f"version {state.version}: {in_sync} of {len(state.proxies)} proxies in sync")
    if state.pinned:
        output.line()
        output.line(f"*** PINNED: {state.pinned}")
        output.line("*** newer policy is recorded but not in force; `meshlog unpin` puts it in force")
    output.line()
    output.line(f"published {clock(state.published)} by build {state.build}; newest event {state.events}")
    if services:
        lacking = [one for one in services if one["ready"] < one["wanted"]]
        output.line("services: " + ", ".join(f"{one['name']} {one['ready']}/{one['wanted']}" for one in services))
        for one in lacking:
            output.line(f"  {one['name']} lacks replicas: meshlog logs meshlog-system/{one['name']}")
    for one in behind:
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
    output.line()
    table(state.proxies, wide=False)
    for name, code, sentence in state.quarantine:
        output.line(f"left out: {name}: {sentence} [{code}]")
    if any(proxy.state != "in sync" for proxy in state.proxies):
        output.line()
        output.line("who waits for what: meshlog rollout --last")
    if kubeconfig:
        output.line(f"kubeconfig: {kubeconfig}")
