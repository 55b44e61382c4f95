"""`meshlog grpc-bootstrap`: prints the configuration that a stock gRPC library needs to join without a sidecar."""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.terminal import output
from shared.names import MESH_NAMESPACE, XDS_EDGE, XDS_PORT, service_host

EDGE = f"dns:///{service_host(XDS_EDGE, MESH_NAMESPACE)}:{XDS_PORT}"
ROOTS = "/var/run/secrets/meshlog-trust/bundle.pem"
TOKEN = "/var/run/secrets/meshlog/token"  # noqa: S105 (a path)

_EPILOGUE = """\
The pod needs the annotation meshlog.io/proxyless: "true", a projected token with the audience `meshlog`, and the
ConfigMap meshlog-trust-bundle as a volume. The application then runs with

  GRPC_XDS_BOOTSTRAP=FILE GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS=true

and dials xds:///SERVICE.NAMESPACE.svc.cluster.local:PORT. docs/xds.md has a whole example.
"""


def bootstrap(*, edge: str = EDGE, roots: str = ROOTS, token: str = TOKEN, node: str) -> dict[str, Any]:
    """Return the bootstrap (gRFC A27), with TLS by the mesh's roots (A65) and the pod's token on each stream (A97)."""
    return {
        "xds_servers": [
            {
                "server_uri": edge,
                "channel_creds": [{"type": "tls", "config": {"ca_certificate_file": roots}}],
                "call_creds": [{"type": "jwt_token_file", "config": {"jwt_token_file": token}}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": node, "cluster": "meshlog"},
    }


def main(argv: Sequence[str]) -> int:
    """Print the bootstrap, or write it to a file. Returns 0."""
    parser = argparse.ArgumentParser(
        prog="meshlog grpc-bootstrap",
        description="Print the xDS bootstrap of a gRPC workload that has no sidecar.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--edge", default=EDGE, help=f"URI of the edges (default {EDGE})")
    parser.add_argument("--roots", default=ROOTS, help=f"file of the mesh's roots, in the pod (default {ROOTS})")
    parser.add_argument("--token", default=TOKEN, help=f"file of the pod's token, in the pod (default {TOKEN})")
    parser.add_argument("--node", default="", help="the pod's name, for people (default: the host's name)")
    parser.add_argument("--out", default="", help="file to write to (default: print)")
    options = parser.parse_args(argv)
    node = options.node or os.environ.get("POD_NAME") or socket.gethostname()
    made = bootstrap(edge=options.edge, roots=options.roots, token=options.token, node=node)
    if options.out:
        try:
            Path(options.out).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            output.note(f"meshlog grpc-bootstrap: {options.out} cannot be written: {error.strerror}")
            return 2
    else:
        output.json(made, indent=2)
    return 0
