"""The container runtime interface between kubelet and node: sandboxes (a pod's namespaces) and their processes.

`deploy.devcluster.node` implements it with Linux namespaces, without root; unit tests of the kubelet use a fake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec


class Mount(msgspec.Struct, frozen=True):
    """A directory or file of the machine that is mounted at `target` in a container."""

    source: Path
    target: Path
    read_only: bool = False


DEFAULT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"}
)
"""Default capabilities of CRI-O.

Docker and containerd also grant NET_RAW, with which Linux since 5.17 allows a socket mark. A marked socket would bypass
the sidecar, whose own traffic is recognised by a mark.
"""


class Confinement(msgspec.Struct, frozen=True):
    """The privileges of a container, from its `securityContext`."""

    capabilities: frozenset[str] = DEFAULT_CAPABILITIES
    """Without `CAP_`; `ALL` for all of them."""
    read_only_root: bool = False
    """True if only volumes are writable."""


DEFAULT_CONFINEMENT = Confinement()


class Process(Protocol):
    """A process in a container, with its descendants."""

    @property
    def pid(self) -> int:
        """Its pid in the devcluster's pid namespace."""
        ...

    async def wait(self) -> int:
        """Exit code; 128 + N if signal N ended it. May be awaited more than once."""
        ...

    def signal(self, number: int) -> None:
        """Signal the process; SIGKILL also ends its descendants. Nothing happens if it has ended."""
        ...


class Sandbox(Protocol):
    """The namespaces of one pod, with its address and DNS."""

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

        A missing working directory is created. The program is searched in the `PATH` of `environment`, inside the
        container.
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
        """Start another process in `container` (returned by `start`), with the same files and privileges.

        `standard` are the descriptors of its stdin, stdout and stderr; the caller closes them.
        """
        ...

    async def remove(self) -> None:
        """End all processes, and release namespaces and address."""
        ...


class ServiceRoute(msgspec.Struct, frozen=True, order=True):
    """One port of one Service in the node's packet rules."""

    cluster_ip: str
    port: int
    protocol: str
    """`TCP` or `UDP`."""
    backends: tuple[tuple[str, int], ...]
    """(address, port), sorted. If empty, connections are rejected at once."""


class Runtime(Protocol):
    """The machine on which the kubelet runs pods."""

    @property
    def node_ip(self) -> str:
        """Address of the node inside the devcluster's network."""
        ...

    async def create_sandbox(
        self, *, uid: str, hostname: str, host_network: bool = False, namespace: str = "default"
    ) -> Sandbox:
        """Create the sandbox of a pod; short DNS names are resolved in `namespace` first."""
        ...

    async def set_service_routes(self, routes: Sequence[ServiceRoute]) -> None:
        """Replace all virtual addresses, for pods and node. Established connections continue."""
        ...

    async def set_names(self, names: Mapping[str, Sequence[str]]) -> None:
        """Replace all DNS names: fully qualified name (without trailing dot) → addresses."""
        ...
