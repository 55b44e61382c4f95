"""`meshlog compile`: compiles a folder of manifests to the configuration of proxies, without a cluster."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cli.terminal import output

_EPILOG = """\
Workloads become pods, Services get addresses and endpoints, pods get sidecars as the injector would decide. An object
that cannot be compiled is named on standard error and left out, alone, as in a mesh.

examples:
  meshlog compile -f manifests/                                   who is told how much, and what is left out
  meshlog compile -f manifests/ --proxy shop/web -o yaml          all that the proxy of web holds
  meshlog compile -f manifests/ --proxy shop/web -o bootstrap > envoy.json && envoy --mode validate -c envoy.json
"""


def main(argv: Sequence[str]) -> int:
    """Print the configuration. Returns 0, or 2 for manifests that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="meshlog compile",
        description="Compile manifests without a cluster: what each proxy would be told.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_sources(parser)
    parser.add_argument("--proxy", metavar="NS/POD", help="only this proxy; the name of its workload will do")
    parser.add_argument("-o", "--output", choices=["summary", "yaml", "json", "bootstrap"], default="summary")
    options = parser.parse_args(argv)

    from cli.offline.compilation import compile_files
    from cli.offline.views import document, summary
    from shared.errors import BadInputError

    if options.output == "bootstrap" and not options.proxy:
        raise BadInputError("compile/proxy", "a bootstrap is of one proxy: name it with --proxy NS/POD")
    compiled = compile_files(options.filename, mesh_name=options.mesh_name, trust_domain=options.trust_domain)
    snapshot = compiled.snapshot
    for sentence in compiled.doubts:
        output.note(f"warning: {sentence}")
    proxies = [compiled.proxy(options.proxy)] if options.proxy else list(snapshot.proxies.values())
    if options.output == "summary":
        output.lines(summary(snapshot, proxies))
        return 0
    for one in snapshot.quarantine:
        output.note(f"meshlog: {one.key}: {one.sentence} [{one.code}]")
    if options.output == "bootstrap":
        from google.protobuf.json_format import MessageToDict

        from cli.offline.static_bootstrap import bootstrap, stand_in

        static = bootstrap(snapshot, proxies[0].workload_class, stand_in(options.trust_domain))
        output.json(MessageToDict(static, preserving_proto_field_name=True), indent=2)
    elif options.output == "json":
        output.json(document(snapshot, proxies), indent=2)
    else:
        plain = json.loads(json.dumps(document(snapshot, proxies)))  # YAML does not write protobuf's ordered mappings
        output.yaml(plain)
    return 0


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the manifests and the mesh to compile."""
    parser.add_argument(
        "-f", "--filename", type=Path, action="append", required=True, metavar="PATH", help="a file or a folder"
    )
    parser.add_argument("--mesh-name", default="meshlog", help="of which mesh namespaces must be members")
    parser.add_argument("--trust-domain", default="cluster.local", help="of the identities (default cluster.local)")
