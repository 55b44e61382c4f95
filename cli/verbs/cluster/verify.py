"""`meshlog verify control-plane|connectivity`: checks the health of the mesh, or whether one pod can call another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.cluster.connectivity_check import ConnectivityCheck

_PEERS = "the Kubernetes API or the log"
_EPILOG = """\
The checks of control-plane, and the shape of their -o json: docs/health.md. "all is well" is said if every check could
look; without --log those of the log cannot.

exit code: 0 nothing was found, 1 something was, 2 bad input, 124 not known in time

examples:
  meshlog verify control-plane
  meshlog verify connectivity --from-pod bookbuyer/bookbuyer-abc --to-pod bookstore/bookstore-xyz
  meshlog verify connectivity --from-pod bookbuyer/bookbuyer-abc --to-service bookstore/bookstore --path /books
  meshlog verify connectivity --from-pod bookbuyer/bookbuyer-abc --to-ext-host example.com --to-ext-port 443
"""


def main(argv: Sequence[str]) -> int:
    """Print each check. Returns 0 if all pass, 1 if not."""
    from cli.cluster.target import add_target
    from cli.health.collect import LOOK_GRACE

    parser = argparse.ArgumentParser(
        prog="meshlog verify",
        description="Check a mesh, step by step.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    plane = actions.add_parser("control-plane", aliases=["control-plane-health"], help="is the mesh well")
    call = actions.add_parser("connectivity", help="can one pod call another")
    call.add_argument("--from-pod", required=True, metavar="NAMESPACE/POD")
    call.add_argument("--to-pod", default="", metavar="NAMESPACE/POD")
    call.add_argument("--to-service", default="", metavar="[NAMESPACE/]SERVICE", help="default namespace: the pod's")
    call.add_argument("--to-ext-host", default="", metavar="HOST", help="a host outside the cluster")
    call.add_argument("--to-port", "--to-ext-port", type=int, dest="to_port", help="of the Service, or of the host")
    call.add_argument("--app-protocol", default="", help="what the port should be: http, grpc, tcp, ...")
    call.add_argument("--method", default="GET", help="of the request that is judged (default GET)")
    call.add_argument("--path", default="/", help="of the request that is judged (default /)")
    for action in (plane, call):
        action.add_argument(
            "--log", default=None, metavar="FILE|URL", help="the log (default: $MESHLOG_LOG, or the mesh here)"
        )
        add_timeout(action, 10.0)
        action.add_argument("-o", "--output", choices=["text", "json"], default="text")
        add_target(action)
    options = parser.parse_args(argv)
    if options.action == "connectivity" and not (options.to_pod or options.to_service or options.to_ext_host):
        parser.error("what is called? --to-pod, --to-service or --to-ext-host")
    if options.action != "connectivity":
        return run(lambda _: _control_plane(options), options.timeout, of=_PEERS, grace=LOOK_GRACE)
    return run(lambda _: _connectivity(options), options.timeout, of=_PEERS)


async def _connectivity(options: argparse.Namespace) -> int:
    checks = await _checks(options)
    fine = all(check.fine for check in checks)
    if options.output == "json":
        shown = [{"what": one.what, "fine": one.fine, "found": one.found} for one in checks]
        output.json({"fine": fine, "checks": shown})
        return 0 if fine else 1
    for one in checks:
        output.line(f"{'ok ' if one.fine else 'BAD'}  {one.what}: {one.found}")
    output.line("all is well" if fine else f"{sum(not one.fine for one in checks)} of {len(checks)} checks failed")
    return 0 if fine else 1


async def _control_plane(options: argparse.Namespace) -> int:
    """Print every check of the table, also those without findings."""
    from cli.cluster.target import log_of, session
    from cli.health.checks import judged
    from cli.health.collect import look
    from cli.health.findings_output import as_json, headline, well
    from cli.history.log_source import opened

    log = log_of(options)
    facts = await look(
        lambda: session(options),
        None if log is None else lambda within: opened(log, within=within),
        namespace=options.mesh_namespace,
        mesh_name=options.mesh_name,
        within=options.timeout,
    )
    results = judged(facts)
    if options.output == "json":
        output.json(as_json(results))
        return 0 if well(results) else 1
    for one in results:
        if one.state != "found":
            output.line(f"{'ok ' if one.state == 'well' else '-- '}  {one.what}: {one.seen}")
        for finding in one.findings:
            output.line(f"BAD  {finding.sentence}")
        if one.findings:
            output.line(f"     -> {one.findings[0].remedy}")
    output.line(headline(results))
    return 0 if well(results) else 1


async def _checks(options: argparse.Namespace) -> list[ConnectivityCheck]:
    from cli.cluster.target import log_of, session

    async with session(options) as api:
        from cli.calls.matching import HttpRequest, target_of
        from cli.cluster import connectivity

        wanted = connectivity.ConnectivityQuery(
            caller=options.from_pod,
            pod=options.to_pod,
            service=options.to_service,
            host=options.to_ext_host,
            port=options.to_port,
            protocol=options.app_protocol.lower(),
            request=HttpRequest(method=options.method.upper(), path=target_of(options.method.upper(), options.path)),
        )
        names = {"mesh_name": options.mesh_name, "mesh_namespace": options.mesh_namespace}
        return await connectivity.verify(api, wanted, **names, log=log_of(options))
