"""The sandbox of a pod: its namespaces, its files in /etc, and the processes of its containers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from deploy.devcluster.node.capabilities import numbers
from deploy.devcluster.node.spawner_client import ContainerProcess, ProcessSpec, Spawner
from deploy.devcluster.runtime import DEFAULT_CONFINEMENT, Confinement, Mount


class PodFiles(msgspec.Struct, frozen=True):
    """The files of a sandbox on the machine."""

    directory: Path

    def write(self, *, hostname: str, address: str, name_server: str, search: Sequence[str]) -> None:
        """Write `resolv.conf`, `hostname` and `hosts`, and create the directory in which roots are built."""
        self.staging.mkdir(parents=True, exist_ok=True)
        resolver = f"nameserver {name_server}\nsearch {' '.join(search)}\noptions ndots:5 timeout:2\n"
        (self.directory / "resolv.conf").write_text(resolver)
        (self.directory / "hostname").write_text(f"{hostname}\n")
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{address} {hostname}\n")

    @property
    def staging(self) -> Path:
        """The mount point of new roots; each container mounts its own there."""
        return self.directory / "root"

    def mounts(self) -> list[Mount]:
        """The mounts of the files in /etc."""
        return [
            Mount(source=self.directory / name, target=Path("/etc") / name)
            for name in ("resolv.conf", "hostname", "hosts")
        ]

    def remove(self) -> None:
        """Remove the directory; all containers must have ended."""
        shutil.rmtree(self.directory)


class VisibleFiles(msgspec.Struct, frozen=True):
    """Files of the machine that containers see besides their volumes."""

    shown: Sequence[str]
    """Read-only paths; see `visible_files.shown`."""
    hidden: str
    """The state directory, which is invisible also inside volumes."""


class LinuxSandbox:
    """Implements `deploy.devcluster.runtime.Sandbox` with Linux namespaces."""

    def __init__(
        self,
        spawner: Spawner,
        *,
        ip: str,
        files: PodFiles,
        namespaces: Sequence[int],
        seen: VisibleFiles,
        take_back: Callable[[], Awaitable[None]],
    ) -> None:
        """Takes ownership of the descriptors in `namespaces`; `take_back` disconnects the network."""
        self._spawner = spawner
        self._ip = ip
        self._files = files
        self._namespaces = list(namespaces)
        self._seen = seen
        self._take_back = take_back
        self._processes: dict[ContainerProcess, Confinement] = {}
        self._removed = False

    @property
    def ip(self) -> str:
        """IPv4 address, reachable from the node and from all pods."""
        return self._ip

    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        mounts: Sequence[Mount],
        log: Path,
        working_directory: Path | None = None,
        confinement: Confinement = DEFAULT_CONFINEMENT,
    ) -> ContainerProcess:
        """Start a container with stdout and stderr appended to `log`; raises `OSError` if it cannot be executed."""
        if self._removed:
            raise ProcessLookupError("the pod is gone")
        visible = [*self._files.mounts(), *mounts]
        order = ProcessSpec(
            argv=list(argv),
            environment=with_interpreter_first(environment),
            directory=str(working_directory or "/"),
            staging=str(self._files.staging),
            mounts=[(str(mount.source), str(mount.target), mount.read_only) for mount in visible],
            shown=self._seen.shown,
            hidden=self._seen.hidden,
            read_only=confinement.read_only_root,
            capabilities=numbers(confinement.capabilities),
        )
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            process = await self._spawner.start(order, (nothing, written, written), self._namespaces)
        finally:
            os.close(nothing)
            os.close(written)
        return self._remember(process, confinement)

    async def execute(
        self,
        container: ContainerProcess,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        standard: tuple[int, int, int],
        working_directory: Path | None = None,
    ) -> ContainerProcess:
        """Start another process in a running container, with its confinement; the caller closes `standard`."""
        confinement = self._processes.get(container, DEFAULT_CONFINEMENT)
        order = ProcessSpec(
            argv=list(argv),
            environment=with_interpreter_first(environment),
            directory=str(working_directory or "/"),
            capabilities=numbers(confinement.capabilities),
        )
        return self._remember(await self._spawner.join(order, standard, container), confinement)

    async def remove(self) -> None:
        """End all processes, and release namespaces and address. Idempotent."""
        if self._removed:
            return
        self._removed = True
        ending = list(self._processes)
        for process in ending:
            process.signal(signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in ending))
        # The interface first: it would vanish with the last descriptor of the network namespace.
        try:
            await self._take_back()
        finally:
            for descriptor in self._namespaces:
                os.close(descriptor)
            self._files.remove()

    def _remember(self, process: ContainerProcess, confinement: Confinement) -> ContainerProcess:
        self._processes[process] = confinement

        def forget() -> None:
            self._processes.pop(process, None)

        process.when_ended(forget)
        return process


def with_interpreter_first(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the directory of the interpreter first in PATH."""
    commands = str(Path(sys.executable).parent)
    path = environment.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if path.split(":")[0] != commands:
        path = f"{commands}:{path}"
    return {**environment, "PATH": path}
