"""`meshlog demo`: runs the bookstore on a real mesh, and checks it."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence

from cli.demo.display import Display
from cli.demo.report import DemoReport
from cli.terminal import output


def main(argv: Sequence[str]) -> int:
    """Run the demo. Returns 0 if every check passed, 1 if one failed, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="meshlog demo",
        description="Start a mesh, run a bookstore on it, and check what a mesh must do: about a minute.",
        epilog="Every check is made on real traffic through real Envoys. Exit code 0 only if all of them held.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; progress goes to standard error")
    parser.add_argument("--keep", action="store_true", help="leave the mesh up afterwards (`meshlog down` ends it)")
    options = parser.parse_args(argv)

    from cli.demo.display import choose
    from cli.embedded import lifecycle

    with tempfile.TemporaryDirectory(prefix="meshlog-demo-") as scratch:
        if not options.keep:
            # A separate mesh leaves one that already runs unchanged.
            os.environ[lifecycle.STATE_VARIABLE] = scratch
        began = time.monotonic()
        view = choose(json=options.json)
        try:
            view.act("A mesh starts on this machine")
            mesh = lifecycle.start(api_port=0, nats_port=0, detached=options.keep, progress=view.doing)
            try:
                report = asyncio.run(_tell(view))
            except BaseException:
                mesh.stop()
                raise
            if not options.keep:
                view.doing("ending the mesh")
                mesh.stop()
        finally:
            view.close()
        report.seconds = time.monotonic() - began
        if options.json:
            output.line(report.as_json().decode())
        else:
            held = sum(check.held for check in report.checks)
            output.line()
            output.line(f"{held} of {len(report.checks)} checks held, in {report.seconds:.0f} s.")
            if options.keep:
                output.line(
                    f"The mesh is still up: export KUBECONFIG={lifecycle.state_directory() / lifecycle.KUBECONFIG}"
                )
        return 0 if report.held else 1


async def _tell(view: Display) -> DemoReport:
    from cli.arrival.attached_mesh import attached
    from cli.demo.scenario import Scenario
    from cli.embedded import lifecycle

    async with attached() as mesh:
        await lifecycle.control_plane_available(mesh.api, view.doing)
        story = Scenario(mesh, view)
        await story.tell()
        return story.report
