"""Starting and ending: one sentence for what cannot be, and nothing that stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.devcluster.launch.control import ask
from deploy.devcluster.launch.mesh_process import down, start, status
from deploy.devcluster.launch.statedir import StateDir
from shared.errors import BadInputError, MeshlogError
from tests.integration.devcluster_node.node import Node
from tests.waiting import eventually

pytestmark = pytest.mark.devcluster


def _processes(directory: Path) -> dict[int, str]:
    """Everything of a mesh that the host can see, by its log: all of it writes there."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                written = {os.readlink(entry / "fd" / name) for name in ("1", "2")}  # noqa: PTH115
                if any(path.startswith(str(directory)) for path in written):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def _pid_of(directory: Path, part: str) -> int:
    """The host's pid of the launcher, pid 1 (`init`), the devcluster or the spawner, or of a container's command."""
    record = StateDir(directory / "state").read()
    assert record is not None
    if part in {"launcher", "init"}:
        return record[part]["pid"]
    (pid,) = [pid for pid, command in _processes(directory).items() if part in command and "launcher" not in command]
    return pid


@pytest.mark.parametrize("part", ["launcher", "init", "devcluster_node.node", "node.spawner"])
async def test_killing_any_part_ends_all_and_a_new_mesh_can_start(tmp_path: Path, part: str) -> None:
    node = Node.start(tmp_path, detached=True)
    pod = node.pod("a")
    pod.start("sleep", "600")
    assert len(_processes(tmp_path)) == 5
    os.kill(_pid_of(tmp_path, part), signal.SIGKILL)
    assert await eventually(lambda: _processes(tmp_path) == {}, within=10, what=f"all ended after the end of {part}")
    node.mesh.wait(10)
    down(tmp_path / "state")
    assert status(tmp_path / "state") == {"running": False}
    again = Node.start(tmp_path)
    assert again.pod("a").run("true") == (0, "")
    again.mesh.stop()
    assert _processes(tmp_path) == {}
    assert {path.name for path in (tmp_path / "state").iterdir() if path.is_file()} == {"devcluster.log", "lock"}


def test_killing_a_container_ends_nothing_else(tmp_path: Path) -> None:
    node = Node.start(tmp_path)
    pod = node.pod("a")
    pid, _ = pod.start("sleep", "600")
    os.kill(_pid_of(tmp_path, "sleep 600"), signal.SIGKILL)
    assert pod.wait(pid) == 137
    assert pod.run("true") == (0, "")
    node.mesh.stop()


async def test_a_mesh_that_is_not_detached_ends_with_its_starter(tmp_path: Path) -> None:
    starter = (
        "import sys, os, signal; from pathlib import Path\n"
        "from tests.integration.devcluster_node.node import Node\n"
        "Node.start(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", starter, str(tmp_path))
    assert await ended.wait() == -signal.SIGKILL
    assert await eventually(lambda: _processes(tmp_path) == {}, within=10, what="all ended with the starter")


def test_a_second_up_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    node = Node.start(tmp_path)
    with pytest.raises(BadInputError, match="running here already"):
        Node.start(tmp_path)
    assert status(tmp_path / "state")["running"]
    assert node.pod("a").run("true") == (0, "")
    node.mesh.stop()


def test_a_port_in_use_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInputError, match=f"port {port} on 127.0.0.1 .* in use"):
            start(tmp_path, ["true"], listeners={"api": ("127.0.0.1", port)})
    assert status(tmp_path) == {"running": False}
    assert not down(tmp_path)


def test_a_devcluster_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(MeshlogError, match="out of luck"):
        start(tmp_path, ["sh", "-c", "echo out of luck; exit 1"], listeners={})
    assert _processes(tmp_path) == {}


async def test_a_devcluster_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    with pytest.raises(MeshlogError, match="not ready within"):
        start(tmp_path, ["sleep", "600"], listeners={}, within=0.3)
    # The child in which the launcher tries the kernel may outlive a launcher that is killed early; it ends itself.
    assert await eventually(lambda: _processes(tmp_path) == {}, within=10, what="every process has ended")


def test_what_the_devcluster_refuses_is_told_as_bad_input(tmp_path: Path) -> None:
    program = (
        "from deploy.devcluster.launch.handover import Handover\n"
        "inherited = Handover.from_environment()\n"
        "inherited.progress('reading'); inherited.failed('up/manifest', 'that is no YAML')"
    )
    heard: list[str] = []
    with pytest.raises(BadInputError, match="that is no YAML"):
        start(tmp_path, [sys.executable, "-c", program], listeners={}, progress=heard.append)
    assert heard == ["reading"]


def test_a_listener_of_the_host_is_served_from_inside(tmp_path: Path) -> None:
    program = (
        "from deploy.devcluster.launch.handover import Handover\n"
        "inherited = Handover.from_environment(); inherited.ready(hello='world')\n"
        "listener = inherited.listeners['api']; listener.setblocking(True)\n"
        "listener.accept()[0].sendall(open('/proc/net/dev').read().encode())"
    )
    mesh = start(tmp_path, [sys.executable, "-c", program], listeners={"api": ("127.0.0.1", 0)}, detached=False)
    assert mesh.facts == {"hello": "world"}
    with socket.create_connection(mesh.listeners["api"], timeout=5) as connection:
        interfaces = [line.split(":")[0].strip() for line in connection.recv(4096).decode().splitlines()[2:]]
    assert "lo" in interfaces
    assert not any(name.startswith(("eth", "ens", "wl")) for name in interfaces)
    assert mesh.wait(10) == 0
    mesh.stop()


@pytest.mark.parametrize("without", ["the namespaces", "the network rules"])
def test_a_kernel_that_will_not_is_told_in_a_sentence(tmp_path: Path, without: str) -> None:
    """Inside a user namespace that has no room for another one, or with a broken netlink."""
    sabotage = {
        "the namespaces": "Path('/proc/sys/user/max_user_namespaces').write_text('0')",
        "the network rules": "environ['PYTHONPATH'] = sys.argv[2]",
    }[without]
    broken = tmp_path / "broken" / "sitecustomize.py"
    broken.parent.mkdir()
    broken.write_text(
        "import shared.netfilter.transaction as f\n"
        "def commit(*_, **__): raise OSError(95, 'Operation not supported')\n"
        "f.commit = commit\n"
    )
    program = f"""
import os, sys
from os import environ
from pathlib import Path
from deploy.devcluster.launch.mesh_process import start
from deploy.devcluster.node import syscalls as kernel
user, group = os.getuid(), os.getgid()
kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
kernel.map_only_user(user, group)
{sabotage}
try:
    start(Path(sys.argv[1]), ["true"], listeners={{}})
except Exception as error:
    print(type(error).__name__, error)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "state"), str(broken.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    expected = {"the namespaces": "you make no user namespace", "the network rules": "takes no nf_tables rules"}
    assert done.stdout.startswith("BadInputError"), done
    assert expected[without] in done.stdout
    assert done.stdout.count("\n") == 1


def test_where_parts_of_proc_are_masked_the_mesh_runs_all_the_same(tmp_path: Path) -> None:
    """As in many containers: the kernel then grants nobody below a fresh /proc."""
    program = """
import os, signal, sys
from pathlib import Path
from deploy.devcluster.node import syscalls as kernel
from tests.integration.devcluster_node.node import Node
user, group = os.getuid(), os.getgid()
kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
kernel.map_only_user(user, group)
kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
kernel.bind("/dev/null", "/proc/uptime")
node = Node.start(Path(sys.argv[1]))
pod = node.pod("a")
pid, _ = pod.start("sleep", "60")
pod.signal(pid, signal.SIGTERM)
print(pod.wait(pid), pod.run("cat", "/proc/uptime"))
node.mesh.stop()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "143 (0, '')\n", done


def test_asking_where_no_mesh_runs_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no mesh of yours runs here"):
        list(ask(tmp_path, {"op": "status"}))


def test_an_unknown_operation_is_bad_input(node: Node) -> None:
    with pytest.raises(BadInputError, match="no operation"):
        node.call("dance")


def test_a_long_state_directory_works(tmp_path: Path) -> None:
    """A socket's path may have 107 bytes."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    node = Node.start(deep)
    assert node.pod("a").run("true") == (0, "")
    node.mesh.stop()
