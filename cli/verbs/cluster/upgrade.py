"""`meshlog upgrade`: upgrades the control plane of a cluster to this build and these settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run

_EPILOG = """
Settings of the last installation are not remembered: give the same --preset and --set again, or others. The log's
passwords and certificates and the MeshConfig are kept. Proxies keep their configuration and reconnect by themselves.

example:
  meshlog upgrade --preset ha --set edges=5
"""


def main(argv: Sequence[str]) -> int:
    """Apply the objects of this build, delete obsolete ones, and wait. Returns the exit code."""
    from cli.cluster.installation_options import SETTINGS_EPILOG, add_installation
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(
        prog="meshlog upgrade",
        description="Bring the control plane to this build and these settings.",
        epilog=SETTINGS_EPILOG + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_installation(parser)
    add_timeout(parser, 300.0)
    add_target(parser)
    options = parser.parse_args(argv)

    async def work(deadline: Deadline) -> int:
        await _upgrade(options, deadline)
        return 0

    return run(work, options.timeout, of="the Kubernetes API", undone="upgraded")


async def _upgrade(options: argparse.Namespace, deadline: Deadline) -> None:
    from cli.cluster import installation
    from cli.cluster.installation_options import profile
    from cli.cluster.target import session

    def progress(text: str) -> None:
        output.note(text)

    async with session(options) as api:
        for one in await installation.upgrade(api, profile(options), progress=progress):
            output.line(f"deleted, nothing needs it any more: {one}")
        await installation.available(api, options.mesh_namespace, within=deadline.left, progress=progress)
    output.line(f"The mesh {options.mesh_name} is upgraded.")
