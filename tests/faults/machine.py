"""The processes of an embedded mesh, seen from the host: which pod each belongs to, and what can be done to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from deploy.devcluster.launch.statedir import StateDir
from tests.waiting import eventually

_SPAWNER = "deploy.devcluster.node.spawner"
_PROGRAMS = ("nats-server", "meshlog run")
_NAMES = ("MESHLOG_INSTANCE", "POD_NAME")


class Machine:
    """The host under one mesh."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def containers(self) -> dict[str, int]:
        """Pid of the first process of each container of the control plane and of NATS, by pod."""
        spawner = self._spawner()
        found: dict[str, int] = {}
        for pid, parent in _parents().items():
            if parent == spawner and any(name in _command(pid) for name in _PROGRAMS):
                environment = _environment(pid)
                name = next((environment[key] for key in _NAMES if key in environment), "")
                if name:
                    found[name] = pid
        return found

    def pods(self, *services: str) -> list[str]:
        """Pods of these services that have a process now: `ingestor`, …, `nats`."""
        prefixes = tuple(f"{service}-" if service == "nats" else f"meshlog-{service}-" for service in services)
        return sorted(pod for pod in self.containers() if pod.startswith(prefixes))

    def processes(self, service: str) -> list[int]:
        """First process of each container of a service, of `nats` or of a `sidecar NAMESPACE`, also without a name."""
        spawner = self._spawner()
        return [pid for pid, parent in _parents().items() if parent == spawner and _service(_command(pid)) == service]

    def memory(self) -> dict[str, int]:
        """Resident memory of the largest container of each service, of `nats` and of each namespace's sidecars, bytes.

        The last are called `sidecar NAMESPACE`.
        """
        spawner, parents = self._spawner(), _parents()
        found: dict[str, int] = {}
        for pid, parent in parents.items():
            service = _service(_command(pid)) if parent == spawner else ""
            if service:
                below = [each for each in parents if each == pid or pid in _ancestors(each, parents)]
                found[service] = max(found.get(service, 0), sum(map(_resident, below)))
        return found

    def signal(self, pods: Iterable[str], number: signal.Signals) -> None:
        """Signal every process of these pods, all at once."""
        running = self.containers()
        for pid in [each for pod in pods if pod in running for each in _together(running[pod])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def inside(self, pods: Sequence[str], *verb: str) -> None:
        """Do one of the verbs of `tests.faults.inside` in the namespaces of each of these pods."""
        running = self.containers()
        await asyncio.gather(*(_inside(running[pod], *verb) for pod in pods))

    async def on_node(self, *verb: str) -> None:
        """The same in those of the node."""
        await _inside(self._spawner(), *verb)

    async def running(self, pods: Iterable[str], *, within: float = 30.0) -> None:
        """Wait until each of these pods has a process."""
        wanted = set(pods)
        await eventually(lambda: wanted <= self.containers().keys(), within=within, what=f"{sorted(wanted)} run")

    def claim(self, pod: str) -> Path:
        """Directory of a NATS server's data, as the host and the node agent see it."""
        return self.state / "claims" / "meshlog-system" / f"data-{pod}"

    def _spawner(self) -> int:
        record = StateDir(self.state).read()
        assert record is not None, "no mesh runs"
        parents = _parents()
        for pid in parents:
            if _SPAWNER in _command(pid) and record["init"]["pid"] in _ancestors(pid, parents):
                return pid
        raise LookupError("the mesh has no spawner")


async def _inside(pid: int, *verb: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.faults.inside", str(pid), *verb),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The command, in parentheses, may hold anything.
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found[int(entry.name)] = int(fields[1])
    return found


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) > 0:
        found.add(pid)
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def _service(command: str) -> str:
    """Which service a command line is of: `xds-edge`, `nats`, `sidecar bookbuyer`; empty: of none."""
    words = command.split()
    if "run" in words[:-1] and any(Path(word).name == "meshlog" for word in words[:3]):
        return words[words.index("run") + 1]
    programs = {Path(word).name for word in words[:2]}
    if "envoy" in programs and "--service-node" in words[:-1]:
        return f"sidecar {words[words.index('--service-node') + 1].partition('/')[0]}"
    return "nats" if "nats-server" in programs else ""


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _environment(pid: int) -> dict[str, str]:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace")
        return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
    return {}


def _together(pid: int) -> list[int]:
    """All processes of the container whose first process this is."""
    with contextlib.suppress(OSError):
        inside = _namespace(pid)
        return [each for each in _parents() if each == pid or _namespace(each) == inside]
    return []


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return ""
