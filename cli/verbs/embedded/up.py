"""`meshlog up`: starts the embedded mesh and keeps it running."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence

from cli.terminal import output

_EPILOG = """\
It needs no root, no container engine and no system package: the cluster is a network of its own, made of
namespaces, and real Envoys and a real NATS run in it. `meshlog down` ends it and leaves nothing behind.

examples:
  meshlog up                                   start, print the path of the kubeconfig
  kubectl --kubeconfig "$(meshlog status -o kubeconfig)" get pods -A
  meshlog up --foreground                      stay; Ctrl-C ends the mesh
  meshlog up --ha                              as on a cluster: survives the loss of any process
  meshlog up --api-port 6443                   a port of your choice for the Kubernetes API
"""


def main(argv: Sequence[str]) -> int:
    """Start the mesh and wait until its control plane is available. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog up",
        description="Start the embedded mesh on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--api-port", type=_port, default=0, help="port of the API on 127.0.0.1 (default: any free)")
    parser.add_argument("--nats-port", type=_port, default=0, help="port of the log on 127.0.0.1 (default: any free)")
    parser.add_argument("--edges", type=int, default=None, help="replicas of the xDS edge (default 2; 3 with --ha)")
    parser.add_argument(
        "--ha",
        action="store_true",
        help="three servers of the log, two or three of each service: docs/reliability.md",
    )
    parser.add_argument("--foreground", action="store_true", help="stay until Ctrl-C, then end the mesh")
    options = parser.parse_args(argv)
    if options.edges is not None and options.edges < 1:
        parser.error("--edges must be at least 1")

    from cli.embedded import lifecycle
    from shared.service import inotify

    began = time.monotonic()

    def progress(text: str) -> None:
        output.note(f"{time.monotonic() - began:5.1f} s  {text}")

    mesh = lifecycle.start(
        api_port=options.api_port,
        nats_port=options.nats_port,
        edges=options.edges or 0,
        ha=options.ha,
        detached=not options.foreground,
        progress=progress,
    )
    try:
        asyncio.run(_available(progress))
    except BaseException:
        mesh.stop()
        raise
    if (most := inotify.limit()) is not None and (told := inotify.advice(most)):
        output.note(f"note: {told}")
    host, port = mesh.listeners["api"]
    output.line(f"The mesh is up: Kubernetes API at https://{host}:{port}")
    output.line(f"export KUBECONFIG={lifecycle.state_directory() / lifecycle.KUBECONFIG}")
    if options.foreground:
        try:
            return mesh.wait()
        finally:
            mesh.stop()
    return 0


async def _available(progress: Callable[[str], None]) -> None:
    from cli.embedded import lifecycle
    from cli.kubernetes import api_client, kubeconfig

    async with api_client.connect(kubeconfig.read(lifecycle.state_directory() / lifecycle.KUBECONFIG)) as session:
        await lifecycle.control_plane_available(session, progress)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port (0 to 65535)")
    return int(text)
