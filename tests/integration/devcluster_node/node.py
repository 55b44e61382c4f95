"""A devcluster of pods alone, without an API: what the tests of the machine drive, over the real control socket.

Run as a program it is the process inside the namespaces; `Node` is the test's side of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from deploy.devcluster.launch.control import ControlConnection, ControlServer, ask
from deploy.devcluster.launch.handover import Handover
from deploy.devcluster.launch.mesh_process import LaunchedMesh, start
from deploy.devcluster.node.machine import LinuxRuntime
from deploy.devcluster.node.sandbox import LinuxSandbox
from deploy.devcluster.node.spawner_client import ContainerProcess
from deploy.devcluster.runtime import DEFAULT_CAPABILITIES, Confinement, Mount, Process, ServiceRoute
from shared.errors import BadInputError


class Node:
    """The node under test."""

    def __init__(self, mesh: LaunchedMesh, directory: Path) -> None:
        self.mesh = mesh
        self.directory = directory
        self._numbers = itertools.count(1)

    @classmethod
    def start(cls, directory: Path, *, detached: bool = False) -> Node:
        argv = [sys.executable, "-m", "tests.integration.devcluster_node.node"]
        return cls(start(directory / "state", argv, listeners={}, detached=detached), directory)

    def call(self, operation: str, **arguments: Any) -> Any:
        (answer,) = ask(self.mesh.state_dir, {"op": operation, **arguments})
        return answer["result"]

    def pod(self, hostname: str, *, namespace: str = "default", host_network: bool = False) -> Pod:
        uid = f"{hostname}-{next(self._numbers)}"
        made = self.call("create", uid=uid, hostname=hostname, namespace=namespace, host_network=host_network)
        return Pod(self, uid, made)

    def routes(self, *routes: ServiceRoute) -> None:
        self.call(
            "routes",
            routes=[[route.cluster_ip, route.port, route.protocol, list(route.backends)] for route in routes],
        )


class Pod:
    """A pod under test, on the test's side."""

    def __init__(self, node: Node, uid: str, ip: str) -> None:
        self.node = node
        self.uid = uid
        self.ip = ip
        self._numbers = itertools.count(1)

    def start(
        self,
        *argv: str,
        mounts: Sequence[tuple[Path, str, bool]] = (),
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        capabilities: Sequence[str] | None = None,
        read_only: bool = False,
    ) -> tuple[int, Path]:
        """Pid of the started container, and its log."""
        log = self.node.directory / f"{self.uid}-{next(self._numbers)}.log"
        pid = self.node.call(
            "start",
            uid=self.uid,
            argv=argv,
            log=str(log),
            mounts=[[str(source), target, read_only] for source, target, read_only in mounts],
            environment=dict(environment or {}),
            directory=directory,
            capabilities=capabilities,
            read_only=read_only,
        )
        return pid, log

    def run(self, *argv: str, **more: Any) -> tuple[int, str]:
        """Exit code and output of a container."""
        pid, log = self.start(*argv, **more)
        return self.wait(pid), log.read_text()

    def python(self, program: str, **more: Any) -> str:
        """What a Python program prints in the pod; it must succeed."""
        code, output = self.run("python", "-c", program, **more)
        assert code == 0, output
        return output.strip()

    def beside(self, *argv: str) -> str:
        """What a command prints beside the container that was started last; it must succeed."""
        reading, writing = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        request = {"op": "exec", "pod": self.uid, "argv": list(argv), "environment": {}}
        try:
            (answer,) = ask(self.node.mesh.state_dir, request, [nothing, writing, writing])
        finally:
            os.close(writing)
            os.close(nothing)
        with os.fdopen(reading, "rb") as stream:
            printed = stream.read().decode().strip()
        assert answer["exit"] == 0, printed
        return printed

    def serve(self, program: str) -> int:
        """Start a Python program that prints a line when it listens; its pid."""
        pid, log = self.start("python", "-uc", program)
        self.node.call("line", path=str(log))
        return pid

    def wait(self, pid: int) -> int:
        return self.node.call("wait", pid=pid)

    def signal(self, pid: int, number: int) -> None:
        self.node.call("signal", pid=pid, number=number)

    def remove(self) -> None:
        self.node.call("remove", uid=self.uid)


class _Inside:
    """Handlers of what `Node` and `Pod` ask for."""

    def __init__(self, runtime: LinuxRuntime) -> None:
        self._runtime = runtime
        self._sandboxes: dict[str, LinuxSandbox] = {}
        self._processes: dict[int, ContainerProcess] = {}
        self._last: dict[str, ContainerProcess] = {}

    async def create(self, ask: Mapping[str, Any]) -> str:
        self._sandboxes[ask["uid"]] = made = await self._runtime.create_sandbox(
            uid=ask["uid"], hostname=ask["hostname"], namespace=ask["namespace"], host_network=ask["host_network"]
        )
        return made.ip

    async def start(self, ask: Mapping[str, Any]) -> int:
        try:
            process = await self._sandboxes[ask["uid"]].start(
                ask["argv"],
                environment=ask["environment"],
                mounts=[Mount(source=Path(m[0]), target=Path(m[1]), read_only=m[2]) for m in ask["mounts"]],
                log=Path(ask["log"]),
                working_directory=Path(ask["directory"]) if ask["directory"] else None,
                confinement=Confinement(
                    capabilities=DEFAULT_CAPABILITIES
                    if ask["capabilities"] is None
                    else frozenset(ask["capabilities"]),
                    read_only_root=ask["read_only"],
                ),
            )
        except OSError as error:
            raise BadInputError("test/start", f"{type(error).__name__} {error.strerror}") from error
        self._processes[process.pid] = self._last[ask["uid"]] = process
        return process.pid

    async def wait(self, ask: Mapping[str, Any]) -> int:
        return await self._processes[ask["pid"]].wait()

    async def signal(self, ask: Mapping[str, Any]) -> None:
        self._processes[ask["pid"]].signal(ask["number"])

    async def remove(self, ask: Mapping[str, Any]) -> None:
        await self._sandboxes.pop(ask["uid"]).remove()

    async def routes(self, ask: Mapping[str, Any]) -> None:
        await self._runtime.set_service_routes(
            [
                ServiceRoute(
                    cluster_ip=ip, port=port, protocol=protocol, backends=tuple((b[0], b[1]) for b in backends)
                )
                for ip, port, protocol, backends in ask["routes"]
            ]
        )

    async def names(self, ask: Mapping[str, Any]) -> None:
        await self._runtime.set_names(ask["names"])

    async def line(self, ask: Mapping[str, Any]) -> None:
        """Wait until there is a line in a file."""
        async with asyncio.timeout(10):
            while b"\n" not in Path(ask["path"]).read_bytes():  # noqa: ASYNC110, ASYNC240 - files tell nobody
                await asyncio.sleep(0.01)

    async def connect(self, ask: Mapping[str, Any]) -> str:
        """What a connection from the node itself gets."""
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(ask["address"], ask["port"])
                text = await reader.read()
                writer.close()
        except OSError as error:
            return type(error).__name__
        return text.decode()

    async def open_files(self, ask: Mapping[str, Any]) -> list[str]:
        directory = f"/proc/{ask['pid']}/fd"
        found: list[str] = []
        for name in os.listdir(directory):  # noqa: PTH208
            # A program that is still starting opens and closes its libraries.
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"{directory}/{name}"))  # noqa: PTH115
        return sorted(found)

    async def spawner(self, _: Mapping[str, Any]) -> int:
        return self._runtime._spawner.pid  # pyright: ignore[reportPrivateUsage]

    async def exec(self, ask: dict[str, Any], standard: tuple[int, int, int]) -> Process:
        return await self._sandboxes[ask["pod"]].execute(
            self._last[ask["pod"]], ask["argv"], environment=ask["environment"], standard=standard
        )


async def _main() -> None:
    inherited = Handover.from_environment()
    runtime = await LinuxRuntime.start(inherited.state_dir)
    inside = _Inside(runtime)
    control = ControlServer(inherited.control)
    for operation in ("create", "start", "wait", "signal", "remove", "routes", "names", "line", "connect",
                      "open_files", "spawner"):  # fmt: skip

        async def handle(conversation: ControlConnection, operation: str = operation) -> None:
            await conversation.send({"result": await getattr(inside, operation)(conversation.request)})

        control.register(operation, handle)
    control.register_exec(inside.exec)
    serving = asyncio.ensure_future(control.serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    inherited.ready(node=runtime.node_ip)
    await asyncio.gather(serving, return_exceptions=True)
    await runtime.close()


if __name__ == "__main__":
    uvloop.run(_main())  # as the devcluster does
