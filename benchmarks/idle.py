"""What the demo's mesh costs when nothing happens: CPU and resident memory of each control-plane process.

Read from /proc for the processes below the mesh's launcher: user and system time over a window, resident set (RSS,
which counts pages that processes share once each) and proportional set (PSS, which divides them).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from benchmarks.table import Result, Row
from cli.arrival.attached_mesh import AttachedMesh, attached
from cli.demo.display import LineDisplay
from cli.demo.scenario import Scenario
from cli.embedded import lifecycle

WINDOW = 30.0
"""Seconds of idling that are measured."""
SETTLE = 5.0
"""Seconds between the last change and the window."""


def run() -> Result:
    """Start the demo's mesh with its workloads, let it idle, and measure."""
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as scratch:
        os.environ[lifecycle.STATE_VARIABLE] = scratch
        mesh = lifecycle.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None)
        try:
            return asyncio.run(_measure(mesh.pid, LineDisplay(lambda _: None)))
        finally:
            mesh.stop()


async def _measure(launcher: int, view: LineDisplay) -> Result:
    async with attached() as mesh:
        await lifecycle.control_plane_available(mesh.api, view.doing)
        await _workloads(mesh, view)
    await asyncio.sleep(SETTLE)
    processes = {pid: name for pid in below(launcher) if (name := role(pid))}
    before, began = {pid: cpu_seconds(pid) for pid in processes}, time.monotonic()
    await asyncio.sleep(WINDOW)
    elapsed = time.monotonic() - began
    rows: list[Row] = []
    total_cpu = total_rss = total_pss = 0.0
    for pid, name in sorted(processes.items(), key=lambda item: (item[1], item[0])):
        share = 100 * (cpu_seconds(pid) - before[pid]) / elapsed
        rss, pss = memory(pid)
        rows.append(Row(what=f"{name}: CPU", figure=round(share, 2), unit="% of a core"))
        rows.append(Row(what=f"{name}: resident", figure=round(rss), unit=f"MB ({pss:.0f} MB proportional)"))
        if name.startswith("meshlog"):
            total_cpu, total_rss, total_pss = total_cpu + share, total_rss + rss, total_pss + pss
    rows.append(Row(what="control plane: CPU", figure=round(total_cpu, 2), unit="% of a core", budget="< 5 %"))
    rows.append(
        Row(
            what="control plane: resident",
            figure=round(total_rss),
            unit=f"MB ({total_pss:.0f} MB proportional)",
            budget="<= 500 MB",
        )
    )
    return Result(name="idle", command="make bench ARGS=idle", rows=rows)


async def _workloads(mesh: AttachedMesh, view: LineDisplay) -> None:
    story = Scenario(mesh, view)
    await story.open()
    await story.access()


def below(pid: int) -> list[int]:
    """All processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    rest = [pid]
    while rest:
        rest += children.get(current := rest.pop(), [])
        found.append(current)
    return found


def role(pid: int) -> str:
    """What a process is, by its command line; empty for what does not belong to the control plane or its cluster."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    if "run" in words and any(word.endswith("meshlog") for word in words):
        return f"meshlog {words[words.index('run') + 1]}"
    if "deploy.devcluster" in words:
        return "devcluster"
    return "nats-server" if words[0].endswith("nats-server") else ""


def cpu_seconds(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> tuple[float, float]:
    """RSS and PSS in MB (of 10^6 bytes)."""
    values = {
        line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    }
    return values["Rss"], values["Pss"]
