"""`make attack`: attacks a mesh in every way of `rows`, under traffic, and prints what it cost and what was noticed.

    python -P -m tests.attacks                          every row
    python -P -m tests.attacks edge-silent webhook-     those rows, and all that begin so
    JSON=file python -P -m tests.attacks                also writes one object, anew after each row
    python -P -m tests.attacks table file               that object as the table of docs/security.md

`$ATTACK_STATE` names the directory of a mesh that runs (`meshlog up`) and is to be attacked; without it one is started
and ended again; `HA=1` starts a highly available one. The exit code is 1 if a row does not hold.
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
from tests.attacks.attack import Attack, Outcome, tell
from tests.attacks.rows import attacks
from tests.attacks.scene import AttackScene
from tests.attacks.table import line, markdown, summary, title
from tests.faults.scene import opened


def chosen(names: Sequence[str]) -> list[Attack]:
    """The rows that these names, or beginnings of names, select; all if there are none. Exits with 2 for no row."""
    known = attacks()
    for name in names:
        if not any(attack.name.startswith(name) for attack in known):
            there = "\n  ".join(f"{attack.name:<28} {attack.what}" for attack in known)
            print(f"attack: there is no row {name!r}; these are there:\n  {there}", file=sys.stderr)
            sys.exit(2)
    return [attack for attack in known if not names or any(attack.name.startswith(name) for name in names)]


async def run(rows: Sequence[Attack]) -> list[Outcome]:
    """Tell them one after the other, on the mesh that runs."""
    found: list[Outcome] = []
    async with api.connect(kubeconfig.read(embedded.state_directory() / embedded.KUBECONFIG)) as session:
        await embedded.control_plane_available(session, lambda _: None)
    print(title(), flush=True)
    async with opened(AttackScene) as scene:
        for attack in rows:
            outcome = await tell(scene, attack)
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
    """Start a mesh in a directory of its own (or take the one that `$ATTACK_STATE` names), attack it, end it."""
    if names[:1] == ["table"]:
        print(markdown(msgspec.json.decode(Path(names[1]).read_bytes(), type=list[Outcome])))
        return 0
    rows = chosen(names)
    with tempfile.TemporaryDirectory(prefix="meshlog-attack-") as fresh:
        given = os.environ.get("ATTACK_STATE")
        os.environ[embedded.STATE_VARIABLE] = given or fresh
        try:
            if not given:
                ha = bool(os.environ.get("HA"))
                embedded.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None, ha=ha)
            found = asyncio.run(run(rows))
        except MeshlogError as error:
            print(f"attack: {error}", file=sys.stderr)
            return 2
        finally:
            if not given:
                mesh.down(embedded.state_directory())
    print(summary(found))
    return 1 if any(outcome.wrong or outcome.late for outcome in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
