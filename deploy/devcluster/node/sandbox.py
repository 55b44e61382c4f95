"""A pod: a network of its own, the files that name it, and the processes of its containers."""

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
    """Where a pod's own files lie on the machine."""

    directory: Path

    def write(self, *, hostname: str, address: str, name_server: str, search: Sequence[str]) -> None:
        """Write `resolv.conf`, `hostname` and `hosts`, and the empty directory in which roots are built."""
        self.staging.mkdir(parents=True, exist_ok=True)
        resolver = f"nameserver {name_server}\nsearch {' '.join(search)}\noptions ndots:5 timeout:2\n"
        (self.directory / "resolv.conf").write_text(resolver)
        (self.directory / "hostname").write_text(f"{hostname}\n")
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{address} {hostname}\n")

    @property
    def staging(self) -> Path:
        """The mount point of new roots; each container has its own view of it."""
        return self.directory / "root"

    def mounts(self) -> list[Mount]:
        """The files at the places where programs look for them."""
        return [
            Mount(source=self.directory / name, target=Path("/etc") / name)
            for name in ("resolv.conf", "hostname", "hosts")
        ]

    def remove(self) -> None:
        """Take the directory away; all containers must have ended."""
        shutil.rmtree(self.directory)


class VisibleFiles(msgspec.Struct, frozen=True):
    """What containers see of the machine besides their volumes."""

    shown: Sequence[str]
    """Read-only; see `shown`."""
    hidden: str
    """Never, whatever a volume shows: the state directory."""


class LinuxSandbox:
    """See `deploy.devcluster.runtime.Sandbox`."""

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
        """`namespaces` are descriptors, the sandbox's own from now on; `take_back` undoes the wiring."""
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
        """Start one more process in a running container, as confined as that; `standard` stay the caller's."""
        confinement = self._processes.get(container, DEFAULT_CONFINEMENT)
        order = ProcessSpec(
            argv=list(argv),
            environment=with_interpreter_first(environment),
            directory=str(working_directory or "/"),
            capabilities=numbers(confinement.capabilities),
        )
        return self._remember(await self._spawner.join(order, standard, container), confinement)

    async def remove(self) -> None:
        """End every process in it and take the namespaces and the address back; twice is once."""
        if self._removed:
            return
        self._removed = True
        ending = list(self._processes)
        for process in ending:
            process.signal(signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in ending))
        # The wire first: it would vanish with the last descriptor of the network.
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
    """The environment with the directory of our own commands at the head of PATH."""
    commands = str(Path(sys.executable).parent)
    path = environment.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if path.split(":")[0] != commands:
        path = f"{commands}:{path}"
    return {**environment, "PATH": path}
