"""`meshlog down`: stops the embedded mesh."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cli.terminal import output


def main(argv: Sequence[str]) -> int:
    """Stop the mesh and its remaining processes. Returns 0 also if there was none."""
    parser = argparse.ArgumentParser(
        prog="meshlog down",
        description="End the embedded mesh and everything in it. Its log and certificates are kept unless --forget.",
    )
    parser.add_argument("--forget", action="store_true", help="also delete the log, the keys and all other state")
    options = parser.parse_args(argv)

    from cli.embedded import lifecycle
    from deploy.devcluster.launch import mesh_process

    state = lifecycle.state_directory()
    # A kubeconfig for an API server that has stopped is misleading.
    was_running = mesh_process.down(state)
    (state / lifecycle.KUBECONFIG).unlink(missing_ok=True)
    output.line("The mesh is down." if was_running else "No mesh was running.")
    if options.forget and state.is_dir():
        import shutil

        shutil.rmtree(state)
    return 0
