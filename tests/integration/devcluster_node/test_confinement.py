"""What a container can reach of the machine: programs, read-only, and its own; each test is an attempt from inside."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.devcluster.runtime import DEFAULT_CAPABILITIES
from tests.integration.devcluster_node.node import Node

pytestmark = pytest.mark.devcluster

TREE = Path(__file__).resolve().parents[3]
TRY = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def told(number):
    return errno.errorcode[number]
def attempt(act):
    try:
        result = act()
    except OSError as error:
        return told(error.errno)
    return told(ctypes.get_errno()) if result == -1 else "done"
def reach(path):
    try:
        return sorted(os.listdir(path)) if os.path.isdir(path) else open(path, "rb").read(100).decode("latin-1")
    except OSError as error:
        return told(error.errno)
def write(path):
    def act():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    return attempt(act)
"""
"""What the programs below begin with."""


def _ask(node: Node, program: str, **more: Any) -> Any:
    return json.loads(node.pod("a").python(f"{TRY}\nprint(json.dumps({program}))", **more))


@pytest.fixture
def secrets(node: Node) -> Iterator[list[Path]]:
    """Files of the machine that are nobody's business, where such files are; world-readable, if the way there is."""
    made: list[Path] = []
    try:
        for place in (Path.home(), Path("/tmp"), Path("/var/tmp"), TREE, node.mesh.state_dir, node.directory):
            made.append(Path(tempfile.mkdtemp(dir=place, prefix=".not-yours-")))
            made[-1].chmod(0o755)
            (made[-1] / "config").write_text("secret")
        yield [path / "config" for path in made]
    finally:
        for path in made:
            shutil.rmtree(path)


def test_files_of_the_machine_cannot_be_read_or_replaced(node: Node, secrets: list[Path]) -> None:
    """Homes, other programs' temporary files, the source tree around the packages, the state directory."""
    other = node.pod("other")
    other.start("sleep", "60")
    state = node.mesh.state_dir
    private = [*secrets, state / "devcluster.log", state / "control.sock", state / "pods", state / "pods" / other.uid]
    private += [Path(path) for path in ("/etc/shadow", "/etc/ssh", "/etc/machine-id", "/boot", "/lost+found")]
    private += [Path(path) for path in ("/var/lib/dpkg", "/run/systemd", "/run/dbus", "/run/user", "/sys/class/net")]
    found = _ask(node, f"{{path: reach(path) for path in {[str(path) for path in private]}}}")
    assert found == dict.fromkeys(found, "ENOENT")
    assert len(found) == len(private)
    empty = _ask(node, "{path: reach(path) for path in ('/root', '/home', '/tmp', '/run', '/var/log', '/opt', '/srv')}")
    places = {path: [] for path in empty}
    places["/run"] = ["lock"]
    for path in (Path(node.directory), TREE, Path.home()):
        # The interpreter or the tree may lie there; then the way to it is there, and nothing else.
        top = "/" + path.parts[1]
        if top in places and empty[top] != places[top]:
            assert len(empty[top]) == 1
            places[top] = empty[top]
    assert empty == places


def test_every_mount_of_the_machines_files_is_read_only(node: Node, tmp_path: Path) -> None:
    """Read from the kernel's own list, so that a directory shown tomorrow is judged too."""
    lines: list[list[str]] = _ask(
        node, "[line.split() for line in open('/proc/self/mountinfo')]", mounts=[(tmp_path, "/data/mine", False)]
    )
    writable = {line[4] for line in lines if "rw" in line[5].split(",")}
    devices = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "pts", "shm")}
    pods_own = {"/data/mine", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    assert writable == {"/", "/proc", *devices, *pods_own}
    assert "/usr" in {line[4] for line in lines}


def test_programs_and_the_kernels_switches_cannot_be_changed(node: Node) -> None:
    """Root of the machine may run the tests: then only the mount can refuse."""
    paths = ["/usr/bin/env", "/usr/new", "/bin/sh", "/etc/passwd", "/etc/ssl/certs/new", f"{TREE}/shared/new"]
    paths += [f"{Path(json.__file__).parent}/new", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"]
    paths += ["/sys/devices/system/cpu/online"]
    found = _ask(node, f"{{path: write(path) for path in {paths} if path.endswith('new') or os.path.exists(path)}}")
    assert len(found) >= 8
    # That a program runs is noticed first; beside it, everything is read-only.
    assert {word for path, word in found.items() if path != "/bin/sh"} == {"EROFS"}, found
    assert found.get("/bin/sh") in {None, "EROFS", "ETXTBSY"}


def test_what_an_image_would_let_it_write_is_its_own(node: Node) -> None:
    directories = ["/tmp", "/var/tmp", "/run", "/var/run", "/var/log", "/root", "/home", "/etc", "/dev/shm", "", "/opt"]
    paths = [f"{directory}/mine" for directory in directories]
    assert set(_ask(node, f"[write(path) for path in {paths}]")) == {"done"}
    seen = set(_ask(node, f"[reach(path) for path in {paths}]"))
    assert seen == {"ENOENT"}, "another container does not see it"
    assert not any(Path(path).exists() for path in paths)


def test_a_working_directory_that_is_not_there_is_made(node: Node) -> None:
    pod = node.pod("a")
    assert pod.run("sh", "-c", "pwd; touch here && ls", directory="/srv/app/work") == (0, "/srv/app/work\nhere\n")
    with pytest.raises(Exception, match="Read-only file system"):
        pod.run("true", directory="/usr/app")


def test_mounts_cannot_be_undone_from_inside(node: Node) -> None:
    """Neither as the root that it is, nor as root of a user namespace that it makes."""
    usr, remount = "b'/usr'", 32 | 4096
    acts = {
        "remount": f"libc.mount(None, {usr}, None, {remount}, None)",
        "unmount": f"libc.umount2({usr}, 2)",
        "mount": "libc.mount(b'none', b'/mnt', b'tmpfs', 0, None)",
        "enter": "libc.setns(os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)",
        "device": "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))",
        "chroot": "os.chroot('/usr')",
    }
    found = _ask(node, f"dict({', '.join(f'{what}=attempt(lambda: {act})' for what, act in acts.items())})")
    assert found == dict.fromkeys(acts, "EPERM")
    again = (
        "[attempt(lambda: libc.unshare(0x10020000)), attempt(lambda: "
        f"libc.mount(None, {usr}, None, {remount}, None)), attempt(lambda: libc.umount2({usr}, 2)), write('/usr/new')]"
    )
    assert _ask(node, again) == ["done", "EPERM", "EINVAL", "EROFS"]


def test_the_network_cannot_be_changed_without_the_capability(node: Node) -> None:
    """The mark is what tells the sidecar's own traffic from the application's."""
    mark = "attempt(lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1337))"
    assert _ask(node, mark) == "EPERM"
    assert _ask(node, mark, capabilities=["NET_ADMIN"]) == "done"
    assert _ask(node, "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))") == "EPERM"


def test_capabilities_are_those_that_were_asked_for_also_for_commands_beside(node: Node) -> None:
    held = "[line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapPrm', 'CapBnd'))]"
    everything = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert [int(mask, 16).bit_count() for mask in _ask(node, held)] == [len(DEFAULT_CAPABILITIES)] * 2
    assert _ask(node, held, capabilities=[]) == ["0" * 16] * 2
    assert _ask(node, held, capabilities=["NET_ADMIN", "NO_SUCH"]) == [f"{1 << 12:016x}"] * 2
    assert _ask(node, held, capabilities=["ALL"]) == [f"{(1 << everything + 1) - 1:016x}"] * 2
    pod = node.pod("b")
    pod.start("sleep", "60", capabilities=["NET_RAW"])
    assert pod.beside("sh", "-c", "grep CapBnd /proc/self/status") == f"CapBnd:\t{1 << 13:016x}"


def test_a_read_only_root_leaves_its_volumes(node: Node, tmp_path: Path) -> None:
    paths = ["/tmp/x", "/x", "/etc/x", "/var/log/x", "/dev/shm/x", "/data/x"]
    found = _ask(
        node, f"[write(path) for path in {paths}]", read_only=True, mounts=[(tmp_path, "/data", False)], directory="/w"
    )
    assert found == ["EROFS"] * 4 + ["done"] * 2


def test_a_container_sees_its_own_processes_devices_and_variables(node: Node) -> None:
    other = node.pod("other")
    other.start("sleep", "60")
    found = _ask(
        node,
        "[[name for name in os.listdir('/proc') if name.isdigit()], os.listdir('/dev'), os.listdir('/dev/pts'),"
        " sorted(os.environ), reach('/proc/kcore'), reach('/proc/keys')]",
        environment={"MINE": "x"},
    )
    devices = {"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "fd", "stdin", "stdout"}
    assert (found[0], set(found[1]), found[2]) == (["1"], {*devices, "stderr"}, ["ptmx"])
    assert set(found[3]) <= {"MINE", "PATH", "LC_CTYPE"}, "the last is set by Python itself"
    assert set(found[4:]) <= {"", "ENOENT"}, "masked, if the kernel has them"
    pod = node.pod("b")
    assert pod.run("sh", "-c", "echo to out > /dev/stdout; echo x > /dev/null; head -c2 /dev/zero | wc -c") == (
        0,
        "to out\n2\n",
    )
    assert pod.python("import os; m, s = os.openpty(); print(os.ttyname(s))") == "/dev/pts/0"


def test_no_volume_shows_the_state_directory(node: Node) -> None:
    """What holds it may be mounted; a pod's own volumes lie in it, and are seen all the same."""
    state = node.mesh.state_dir
    assert (state / "devcluster.log").exists()
    mine = state / "claims" / "mine"
    mine.mkdir(parents=True, exist_ok=True)
    (mine / "file").write_text("kept")
    for outer in (state.parent, Path("/")):
        inside = Path("/outer") / state.relative_to(outer)
        found = _ask(
            node,
            f"[reach('{inside}'), write('{inside}/new'), reach('{inside.parent}'), reach('/mine/file')]",
            mounts=[(outer, "/outer", False), (mine, "/mine", True)],
        )
        assert found[:2] == [[], "EROFS"]
        assert state.name in found[2]
        assert found[3] == "kept"


def test_a_link_in_a_volume_leads_no_mount_out_of_the_container(node: Node, tmp_path: Path) -> None:
    volume, elsewhere = tmp_path / "volume", tmp_path / "elsewhere"
    volume.mkdir()
    elsewhere.mkdir()
    (volume / "way").symlink_to(elsewhere)
    with pytest.raises(Exception, match="/data/way is a symbolic link"):
        node.pod("a").run("true", mounts=[(volume, "/data", False), (tmp_path, "/data/way/made", False)])
    assert list(elsewhere.iterdir()) == []
