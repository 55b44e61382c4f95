"""Whatever file a person names: one sentence that names it, exit code 2, no traceback, little memory, no waiting."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cli.__main__ import main
from shared.io import bounded_read
from tests.property.history.worlds import exported, recorded
from tests.unit.cli.bad_files import ANYWHERE, CALLS, EXPORTS, KUBECONFIGS, YAML, Make
from tests.unit.compiler import objects

VERBS: dict[str, tuple[Callable[[str], Sequence[str]], dict[str, Make], set[str]]] = {
    # What is run, the files that are bad for it beside `ANYWHERE`, and those that it may take as empty.
    "compile": (lambda file: ["compile", "-f", file], YAML, {"empty", "/dev/null", "a folder"}),
    "check": (lambda file: ["check", "-f", file, "a/b", "svc:c/d"], YAML, set()),
    "migrate": (lambda file: ["migrate", "osm", "-f", file], YAML, {"empty", "/dev/null", "a folder"}),
    "apply": (lambda file: ["apply", "-f", file], YAML, set()),
    "plan": (lambda file: ["plan", "--envoys", "0", "-f", file], YAML, {"empty", "/dev/null", "a folder"}),
    "plan --calls": (
        lambda file: ["plan", "--envoys", "0", "--delete", "TrafficTarget/store/buyer-v1", "--calls", file],
        CALLS,
        {"empty", "/dev/null"},
    ),
    "bisect --devcluster": (
        lambda file: ["bisect", "--good", "2", "--bad", "1", "--devcluster", file, "--", "true"],
        YAML,
        set(),
    ),
    "verify --kubeconfig": (lambda file: ["verify", "control-plane", "--kubeconfig", file], KUBECONFIGS, set()),
    "replay": (lambda file: ["replay", file, "--verify"], EXPORTS, set()),
    "status --log": (lambda file: ["status", "--log", file], EXPORTS, set()),
    "log --log": (lambda file: ["log", "--log", file], EXPORTS, set()),
    "show --log": (lambda file: ["show", "HEAD", "--log", file], EXPORTS, set()),
    "export --log": (lambda file: ["export", "--log", file, "/dev/null"], EXPORTS, set()),
    "run --config": (lambda file: ["run", "compiler", "--config", file, "--http-port", "x"], YAML, set()),
}
USABLE = {
    "an event that is none",
    "an event that is deep",
    "a subject of another kind",
    "headers that lie",
    "a block of no record",
}
"""Exports that are whole and hold nothing of use: a verb may say so with another exit code."""
TABLE = [
    (verb, name, make, line)
    for verb, (line, more, _) in VERBS.items()
    for name, make in {**ANYWHERE, **more}.items()
    if not (verb == "bisect --devcluster" and name in {"empty", "/dev/null", "a folder"})  # it would start a mesh
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bookstore's log, for the verbs that need one beside the file."""
    path = tmp_path_factory.mktemp("good") / "log"

    async def make() -> None:
        (await exported(await recorded([[event] for event in objects.bookstore()]), path)).close()

    asyncio.run(make())
    return path


@pytest.fixture(autouse=True)
def bounds(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No mesh runs, no pipe is waited for, a limit of a megabyte is enough to be seen."""
    monkeypatch.setenv("MESHLOG_LOG", str(log))
    monkeypatch.setenv("MESHLOG_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MESHLOG_FILE_MB", "8")
    for function in (bounded_read.read_bytes,):
        assert function.__kwdefaults__ is not None
        monkeypatch.setitem(function.__kwdefaults__, "silent", 0.05)
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("verb", "name", "make", "line"), TABLE, ids=[f"{verb}: {name}" for verb, name, *_ in TABLE])
def test_a_bad_file_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    verb: str,
    name: str,
    make: Make,
    line: Callable[[str], Sequence[str]],
) -> None:
    file = make(tmp_path)
    code = main(list(line(str(file))))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.isprintable() or all(one.isprintable() for one in said.splitlines())
    if name in VERBS[verb][2]:
        assert code in {0, 1, 2}
    elif name in USABLE:
        assert code in {0, 1, 2}
        assert len(said.splitlines()) <= 1
    else:
        assert code == 2
        assert len(said.splitlines()) == 1
        assert said.startswith(("meshlog: ", "meshlog run compiler: "))


def test_a_bomb_costs_little_memory(tmp_path: Path) -> None:
    """The whole process, beside what it takes to import what replaying needs."""
    bomb = EXPORTS["a bomb of zeros"](tmp_path)
    assert bomb.stat().st_size < 3_000_000
    script = (
        "import re, sys; from cli.__main__ import main; code = main(['replay', sys.argv[1], '--verify']); "
        "print(code, int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    argv = [sys.executable, "-P", "-c", script, str(bomb)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    code, megabytes = map(int, done.stdout.split())
    assert code == 2
    assert megabytes < 250
