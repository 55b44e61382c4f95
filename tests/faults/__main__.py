"""`make faults`: breaks a highly available mesh in every way of `rows`, under traffic, and prints what happened.

    python -m tests.faults                              every row
    python -m tests.faults kill-compiler-leader cut-    those rows, and all that begin so
    JSON=file python -m tests.faults                    also writes one object, anew after each row
    python -m tests.faults table file                   that object as the table of docs/reliability.md

The exit code is 1 if a row does not hold.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cli import api, embedded, kubeconfig
from deploy.devcluster.launch import mesh
from shared.errors import MeshlogError
from tests.faults.fault import Fault, Outcome, tell
from tests.faults.rows import FAULTS
from tests.faults.scene import Scene, opened
from tests.faults.table import line, markdown, summary, title


def chosen(names: Sequence[str]) -> list[Fault]:
    """The rows that these names, or beginnings of names, select; all if there are none. Exits with 2 for no row."""
    for name in names:
        if not any(fault.name.startswith(name) for fault in FAULTS):
            known = "\n  ".join(f"{fault.name:<24} {fault.what}" for fault in FAULTS)
            print(f"faults: there is no row {name!r}; these are there:\n  {known}", file=sys.stderr)
            sys.exit(2)
    return [fault for fault in FAULTS if not names or any(fault.name.startswith(name) for name in names)]


async def run(faults: Sequence[Fault]) -> list[Outcome]:
    """Tell them one after the other, on the mesh that runs."""
    found: list[Outcome] = []
    async with api.connect(kubeconfig.read(embedded.state_directory() / embedded.KUBECONFIG)) as session:
        await embedded.control_plane_available(session, lambda _: None)
    print(title(), flush=True)
    async with opened(Scene) as scene:
        for fault in faults:
            outcome = await tell(scene, fault)
            found.append(outcome)
            _write(found)
            print(line(outcome), flush=True)
            for wrong in (*outcome.wrong, *outcome.late):
                print(f"    {wrong}", flush=True)
    return found


def _write(found: Sequence[Outcome]) -> None:
    if path := os.environ.get("JSON"):
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(found)))


def main(names: Sequence[str]) -> int:
    """Start a mesh in a directory of its own (or take the one that `$FAULTS_STATE` names), break it, end it."""
    if names[:1] == ["table"]:
        print(markdown(msgspec.json.decode(Path(names[1]).read_bytes(), type=list[Outcome])))
        return 0
    faults = chosen(names)
    with tempfile.TemporaryDirectory(prefix="meshlog-faults-") as fresh:
        given = os.environ.get("FAULTS_STATE")
        os.environ[embedded.STATE_VARIABLE] = given or fresh
        try:
            if not given:
                embedded.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None, ha=True)
            found = asyncio.run(run(faults))
        except MeshlogError as error:
            print(f"faults: {error}", file=sys.stderr)
            return 2
        finally:
            if not given:
                mesh.down(embedded.state_directory())
    print(summary(found))
    return 1 if any(outcome.wrong or outcome.late for outcome in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
