"""`meshlog install`: prints a control plane for a Kubernetes cluster as YAML, or applies it to the cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run

_EPILOG = """
examples:
  meshlog install | kubectl apply --server-side -f -       print everything, let kubectl apply it
  meshlog install --apply                                  apply it and wait until it is ready
  meshlog install --preset minimal --set image=registry.example/meshlog:0.1.0 --apply
  meshlog install --apply --permissive                     begin with every call allowed, as `osm install` does

Printed passwords and certificates of the log are new each time: print once, apply once; `meshlog upgrade` keeps them.
"""


def main(argv: Sequence[str]) -> int:
    """Print the objects of an installation, or apply them and wait. Returns the exit code."""
    from cli.cluster.installation_options import SETTINGS_EPILOG, add_installation, profile
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(
        prog="meshlog install",
        description="Install the control plane in a Kubernetes cluster.",
        epilog=SETTINGS_EPILOG + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_installation(parser)
    parser.add_argument("--apply", action="store_true", help="apply the objects instead of printing them, and wait")
    parser.add_argument("--permissive", action="store_true", help="MeshConfig: every member may call every member")
    parser.add_argument("--without-crds", action="store_true", help="leave the CustomResourceDefinitions out")
    parser.add_argument("--without-secrets", action="store_true", help="leave the log's passwords and certificates out")
    parser.add_argument(
        "--enforce-single-mesh", choices=["true", "false"], default="true", help="refuse beside another (default true)"
    )
    add_timeout(parser, 300.0)
    add_target(parser)
    options = parser.parse_args(argv)

    from cli.cluster import installation

    wanted = profile(options)
    if not options.apply:
        manifests = installation.rendered(
            wanted,
            permissive=options.permissive,
            crds=not options.without_crds,
            secrets=not options.without_secrets,
        )
        output.yaml(*manifests)
        return 0

    async def work(deadline: Deadline) -> int:
        await _apply(options, deadline)
        output.line(f"The mesh {wanted.mesh_name} runs in {wanted.namespace}. Next: meshlog namespace add NAMESPACE")
        return 0

    return run(work, options.timeout, of="the Kubernetes API", undone="installed")


async def _apply(options: argparse.Namespace, deadline: Deadline) -> None:
    from cli.cluster import installation
    from cli.cluster.installation_options import profile
    from cli.cluster.target import session

    def progress(text: str) -> None:
        output.note(text)

    async with session(options) as api:
        single = options.enforce_single_mesh == "true"
        await installation.install(
            api, profile(options), permissive=options.permissive, single=single, progress=progress
        )
        await installation.available(api, options.mesh_namespace, within=deadline.left, progress=progress)
