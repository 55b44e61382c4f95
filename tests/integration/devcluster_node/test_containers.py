"""Containers: what they see, what they leave, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.errors import BadInputError
from tests.integration.devcluster_node.node import Node
from tests.waiting import eventually

pytestmark = pytest.mark.devcluster


def test_a_volume_appears_where_no_directory_was(node: Node, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("hello")
    for target in ("/data", "/etc/nowhere/deep", "/var/run/secrets/kubernetes.io/serviceaccount", "/usr/share/new"):
        assert node.pod("a").run("cat", f"{target}/page", mounts=[(tmp_path, target, True)]) == (0, "hello")


@pytest.mark.parametrize("target", ["/usr/share/nowhere", "/usr/nowhere/deep", "/bin/nowhere"])
def test_around_a_volume_all_of_the_programs_files_are_still_there(node: Node, tmp_path: Path, target: str) -> None:
    """And of /etc what every image has."""
    _, before = node.pod("a").run("ls", "-A", "/usr", "/usr/share", "/usr/bin", "/etc")
    assert {path.name for path in Path("/usr/share").iterdir()} <= set(before.split())
    code, listing = node.pod("a").run(
        "ls", "-A", "/usr", "/usr/share", "/usr/bin", "/etc", mounts=[(tmp_path, target, True)]
    )
    assert code == 0
    assert sorted(listing.split()) == sorted([*before.split(), "nowhere"])
    assert {"passwd", "ld.so.cache", "ssl"} <= set(before.split())


def test_a_file_can_be_a_volume_and_volumes_can_lie_inside_others(node: Node, tmp_path: Path) -> None:
    outer, page = tmp_path / "outer", tmp_path / "page"
    outer.mkdir()
    page.write_text("inner")
    mounts = [(page, "/data/conf/page", True), (outer, "/data", False)]
    assert node.pod("a").run("cat", "/data/conf/page", mounts=mounts) == (0, "inner")


def test_what_is_written_to_a_volume_stays_and_a_read_only_one_refuses(node: Node, tmp_path: Path) -> None:
    write = ("sh", "-c", "echo kept > /data/page")
    assert node.pod("a").run(*write, mounts=[(tmp_path, "/data", True)])[0] != 0
    assert node.pod("a").run(*write, mounts=[(tmp_path, "/data", False)])[0] == 0
    assert (tmp_path / "page").read_text() == "kept\n"


def test_a_volume_above_the_meshs_own_code_does_not_hide_it(node: Node, tmp_path: Path) -> None:
    """A clone may be in `/tmp`, and the control plane's containers have a volume there."""
    above = Path(__file__).resolve().parents[4]
    program = "import os, sys, shared; print(os.path.exists(shared.__file__))\ntry: os.mkdir(sys.prefix + '/lib/x')"
    program += "\nexcept OSError as error: print(error.errno)\nopen(sys.argv[1], 'w').close()"
    for _ in range(2):  # a container that starts again meets the volume as it left it
        argv = ("python", "-c", program, f"{above}/mine")
        assert node.pod("a").run(*argv, mounts=[(tmp_path, str(above), False)]) == (0, "True\n30\n")
    assert (tmp_path / "mine").exists()
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / Path(__file__).resolve().parents[3].name).symlink_to(outside)
    node.pod("a").run("true", mounts=[(tmp_path / "linked", str(above), False)])
    assert list(outside.iterdir()) == [], "a link in a volume is not followed"


def test_a_swapped_symlink_in_a_volume_is_seen_live(node: Node, tmp_path: Path) -> None:
    """The kubelet renews tokens and ConfigMaps so."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(version)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    pod = node.pod("a")
    pid, log = pod.start(
        "python",
        "-uc",
        "import time\nprint(open('/v/token').read())\nwhile open('/v/token').read() == 'one': time.sleep(0.01)",
        mounts=[(tmp_path, "/v", True)],
    )
    node.call("line", path=str(log))
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert pod.wait(pid) == 0


def test_tmp_and_run_are_the_containers_own(node: Node) -> None:
    pod = node.pod("a")
    name = f"mine-{time.time_ns()}"
    paths = [f"/tmp/{name}", f"/run/{name}"]
    assert pod.run("sh", "-c", f"touch {' '.join(paths)} && ls -d {' '.join(paths)}")[0] == 0
    assert all(pod.run("test", "-e", path)[0] == 1 for path in paths)
    assert not any(Path(path).exists() for path in paths)


def test_a_container_inherits_no_descriptor(node: Node) -> None:
    pod = node.pod("a")
    pid, log = pod.start("sleep", "60")
    expected = sorted(["/dev/null", str(log), str(log)])
    # Its own start opens and closes libraries; what it inherited would stay.
    asyncio.run(eventually(lambda: node.call("open_files", pid=pid) == expected, within=5, what="only its own files"))


def test_the_pod_has_its_own_name_and_path_begins_with_our_commands(node: Node) -> None:
    code, output = node.pod("named").run(
        "sh", "-c", "hostname; cat /etc/hostname; echo $PATH $MINE", environment={"MINE": "x"}
    )
    assert code == 0
    first, second, last = output.splitlines()
    assert (first, second) == ("named", "named")
    assert last.startswith(f"{Path(sys.executable).parent}:")
    assert last.endswith(" x")


def test_exit_codes_and_signals_are_told(node: Node) -> None:
    pod = node.pod("a")
    assert pod.run("sh", "-c", "exit 7")[0] == 7
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP):
        pid, _ = pod.start("sleep", "60")
        pod.signal(pid, number)
        assert pod.wait(pid) == 128 + number
        assert pod.wait(pid) == 128 + number


def test_a_program_that_handles_a_signal_gets_it(node: Node) -> None:
    pod = node.pod("a")
    pid, log = pod.start("sh", "-c", "trap 'echo bye; exit 3' TERM; echo on; while true; do sleep 0.01; done")
    node.call("line", path=str(log))
    pod.signal(pid, signal.SIGTERM)
    assert (pod.wait(pid), log.read_text()) == (3, "on\nbye\n")


@pytest.mark.parametrize(
    ("argv", "why"), [(("no-such-command",), "FileNotFoundError"), (("/etc/hostname",), "PermissionError")]
)
def test_what_cannot_be_executed_is_refused(node: Node, argv: tuple[str, ...], why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        node.pod("a").start(*argv)


async def test_a_killed_container_takes_all_that_it_started_with_it(node: Node) -> None:
    """Also what called setsid and what was orphaned: nothing of it holds the pipe open any more."""
    pod = node.pod("a")
    marker = f"6{time.time_ns() % 10**8}"
    pid, _ = pod.start("sh", "-c", f"setsid sh -c 'sleep {marker} & sleep {marker}' & sleep {marker}")
    assert await eventually(lambda: _running(marker) == 3, within=10, what="the container started all that it starts")
    pod.signal(pid, signal.SIGKILL)
    assert pod.wait(pid) == 137
    assert _running(marker) == 0


def test_removing_a_pod_ends_its_containers(node: Node) -> None:
    pod = node.pod("a")
    marker = f"7{time.time_ns() % 10**8}"
    pid, _ = pod.start("sleep", marker)
    assert _running(marker) == 1
    pod.remove()
    assert _running(marker) == 0
    assert pod.wait(pid) == 137


@pytest.mark.alone
def test_a_container_starts_in_milliseconds(node: Node) -> None:
    pod = node.pod("a")
    begun = time.perf_counter()
    for _ in range(10):
        pod.start("sleep", "60")
    assert (time.perf_counter() - begun) / 10 < 0.03


_EXEC = """
import sys
from pathlib import Path
from deploy.devcluster.launch.control import exec_in_pod
sys.exit(exec_in_pod(Path(sys.argv[1]), "default", sys.argv[2], "", sys.argv[3:]))
"""


def _exec(node: Node, uid: str, *argv: str, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", _EXEC, str(node.mesh.state_dir), uid, *argv],
        input=stdin, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_exec_runs_beside_the_container_with_the_callers_own_streams(node: Node, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("volume")
    pod = node.pod("inside")
    pod.start("sleep", "60", mounts=[(tmp_path, "/data", True)])
    shell = "hostname; cat /data/page; cat; ps ax | grep -c '[s]leep 60'; exit 5"
    assert _exec(node, pod.uid, "sh", "-c", shell, stdin=" typed ") == (5, "inside\nvolume typed 1\n")


def test_exec_passes_signals_on(node: Node) -> None:
    pod = node.pod("inside")
    pod.start("sleep", "60")
    command = [sys.executable, "-c", _EXEC, str(node.mesh.state_dir), pod.uid]
    with subprocess.Popen(
        [*command, "sh", "-c", "trap 'exit 9' INT; echo on; while :; do sleep 0.01; done"], stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"on\n"
        client.send_signal(signal.SIGINT)
        assert client.wait(timeout=10) == 9


def test_exec_says_what_it_cannot_do(node: Node) -> None:
    pod = node.pod("inside")
    pod.start("sleep", "60")
    code, output = _exec(node, pod.uid, "no-such-command")
    assert code == 1
    assert "BadInputError: no-such-command: No such file or directory" in output


def _running(marker: str) -> int:
    """How many processes of the machine sleep so long."""
    wanted = f"sleep\0{marker}\0".encode()
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += (entry / "cmdline").read_bytes() == wanted
    return found
