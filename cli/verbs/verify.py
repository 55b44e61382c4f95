"""`meshlog verify control-plane|connectivity`: is the mesh well, and can this pod call that one."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli import output

if TYPE_CHECKING:
    from cli.cluster.health import Check

_EPILOG = """\
examples:
  meshlog verify control-plane
  meshlog verify connectivity --from-pod bookbuyer/bookbuyer-abc --to-pod bookstore/bookstore-xyz
  meshlog verify connectivity --from-pod bookbuyer/bookbuyer-abc --to-service bookstore/bookstore --path /books
  meshlog verify connectivity --from-pod bookbuyer/bookbuyer-abc --to-ext-host example.com --to-ext-port 443
"""


def main(argv: Sequence[str]) -> int:
    """Print each check; 0 if all are fine, 1 if not."""
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(
        prog="meshlog verify",
        description="Check a mesh, step by step.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    plane = actions.add_parser("control-plane", aliases=["control-plane-health"], help="are all services ready")
    call = actions.add_parser("connectivity", help="can one pod call another")
    call.add_argument("--from-pod", required=True, metavar="NAMESPACE/POD")
    call.add_argument("--to-pod", default="", metavar="NAMESPACE/POD")
    call.add_argument("--to-service", default="", metavar="[NAMESPACE/]SERVICE", help="default namespace: the pod's")
    call.add_argument("--to-ext-host", default="", metavar="HOST", help="a host outside the cluster")
    call.add_argument("--to-port", "--to-ext-port", type=int, dest="to_port", help="of the Service, or of the host")
    call.add_argument("--app-protocol", default="", help="what the port should be: http, grpc, tcp, ...")
    call.add_argument("--method", default="GET", help="of the request that is judged (default GET)")
    call.add_argument("--path", default="/", help="of the request that is judged (default /)")
    call.add_argument(
        "--log", default=None, metavar="FILE|URL", help="the log (default: $MESHLOG_LOG, or the mesh here)"
    )
    for action in (plane, call):
        action.add_argument("-o", "--output", choices=["text", "json"], default="text")
        add_target(action)
    options = parser.parse_args(argv)
    if options.action == "connectivity" and not (options.to_pod or options.to_service or options.to_ext_host):
        parser.error("what is called? --to-pod, --to-service or --to-ext-host")
    checks = asyncio.run(_checks(options))
    fine = all(check.fine for check in checks)
    if options.output == "json":
        shown = [{"what": one.what, "fine": one.fine, "found": one.found} for one in checks]
        output.json({"fine": fine, "checks": shown})
        return 0 if fine else 1
    for one in checks:
        output.line(f"{'ok ' if one.fine else 'BAD'}  {one.what}: {one.found}")
    output.line("all is well" if fine else f"{sum(not one.fine for one in checks)} of {len(checks)} checks failed")
    return 0 if fine else 1


async def _checks(options: argparse.Namespace) -> list[Check]:
    from cli.cluster import health
    from cli.cluster.target import session

    async with session(options) as api:
        if options.action != "connectivity":
            return await health.control_plane(api, options.mesh_namespace, options.mesh_name)
        from cli.calls.matching import Request
        from cli.cluster import connectivity

        wanted = connectivity.Wanted(
            caller=options.from_pod,
            pod=options.to_pod,
            service=options.to_service,
            host=options.to_ext_host,
            port=options.to_port,
            protocol=options.app_protocol.lower(),
            request=Request(method=options.method.upper(), path=f"/{options.path.removeprefix('/')}"),
        )
        names = {"mesh_name": options.mesh_name, "mesh_namespace": options.mesh_namespace}
        return await connectivity.verify(api, wanted, **names, log=_log(options))


def _log(options: argparse.Namespace) -> str | None:
    """Where the log of that cluster is; None if it is not known. The embedded mesh's is its own cluster's only."""
    import os

    from cli import embedded
    from cli.cluster.target import found
    from cli.history.source import LOG_VARIABLE

    said: str | None = options.log if options.log is not None else os.environ.get(LOG_VARIABLE)
    if said:
        return said
    own = embedded.state_directory() / embedded.KUBECONFIG
    return "" if own.exists() and found(options).resolve() == own.resolve() else None
