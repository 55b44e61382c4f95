"""What the kubelet part needs of the machine: sandboxes (a pod's namespaces) and processes in them.

`deploy.devcluster.node` implements it with Linux namespaces, without root; tests of the kubelet use a fake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec


class Mount(msgspec.Struct, frozen=True):
    """A directory or file of the machine that a container sees at `target`."""

    source: Path
    target: Path
    read_only: bool = False


DEFAULT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"}
)
"""What CRI-O leaves to root in a container that asks for nothing.

Docker and containerd leave NET_RAW too, with which Linux since 5.17 lets a socket be marked: here it would lead around
the sidecar, whose own traffic is told by a mark.
"""


class Confinement(msgspec.Struct, frozen=True):
    """What a container may do, as its `securityContext` says."""

    capabilities: frozenset[str] = DEFAULT_CAPABILITIES
    """Without `CAP_`; `ALL` for all of them."""
    read_only_root: bool = False
    """It may write to its volumes only."""


DEFAULT_CONFINEMENT = Confinement()


class Process(Protocol):
    """One started container process (and whatever it forked)."""

    @property
    def pid(self) -> int:
        """Its pid in the devcluster's pid namespace."""
        ...

    async def wait(self) -> int:
        """Exit code; 128 + N if signal N ended it. May be awaited more than once."""
        ...

    def signal(self, number: int) -> None:
        """Signal the process; SIGKILL also ends everything that it started. Gone already: nothing happens."""
        ...


class Sandbox(Protocol):
    """The namespaces of one pod: network with its own address and DNS, mounts."""

    @property
    def ip(self) -> str:
        """IPv4 address, reachable from the node and from all pods."""
        ...

    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        mounts: Sequence[Mount],
        log: Path,
        working_directory: Path | None = None,
        confinement: Confinement = DEFAULT_CONFINEMENT,
    ) -> Process:
        """Start a process with stdout and stderr appended to `log`; raises `OSError` if it cannot be executed.

        A working directory that is not there is made. The program is looked for in the `PATH` of `environment`, as the
        container sees it.
        """
        ...

    async def execute(
        self,
        container: Any,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        standard: tuple[int, int, int],
        working_directory: Path | None = None,
    ) -> Process:
        """Start one more process beside `container` (what `start` returned), seeing and allowed the same.

        `standard` are the descriptors of its stdin, stdout and stderr; they stay the caller's.
        """
        ...

    async def remove(self) -> None:
        """End every process in it and take the namespaces and the address back."""
        ...


class ServiceRoute(msgspec.Struct, frozen=True, order=True):
    """One port of one Service as the node's packet rules know it."""

    cluster_ip: str
    port: int
    protocol: str
    """`TCP` or `UDP`."""
    backends: tuple[tuple[str, int], ...]
    """(address, port), sorted; none: connections are refused at once."""


class Runtime(Protocol):
    """The machine under the node agent."""

    @property
    def node_ip(self) -> str:
        """Address of the node inside the devcluster's network."""
        ...

    async def create_sandbox(
        self, *, uid: str, hostname: str, host_network: bool = False, namespace: str = "default"
    ) -> Sandbox:
        """A sandbox for the pod with this uid; short names are looked up in `namespace` first."""
        ...

    async def set_service_routes(self, routes: Sequence[ServiceRoute]) -> None:
        """Make these, and only these, virtual addresses work for all pods and the node.

        Cheap if nothing changed; a change keeps established connections.
        """
        ...

    async def set_names(self, names: Mapping[str, Sequence[str]]) -> None:
        """What DNS answers: fully qualified name (no trailing dot) → addresses."""
        ...
