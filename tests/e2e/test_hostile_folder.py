"""Nothing that Meshlog starts imports from the folder where it is started: a `queue.py` there is not run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import cli

ROOT = Path(cli.__file__).parents[1]
MESHLOG = str(Path(sysconfig.get_path("scripts")) / "meshlog")
OURS = ("benchmarks", "cli", "deploy", "services", "shared", "tests", "tools")
THEIRS = (
    "aiohttp",
    "cryptography",
    "dnslib",
    "envoy",
    "google",
    "h2",
    "jwt",
    "msgspec",
    "nats",
    "re2",
    "uvloop",
    "yaml",
)
MANIFEST = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module of every name that there is to import, each of which leaves a mark."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    mark = f"open({str(tmp_path / 'mark')!r}, 'a').write(__name__ + '\\n')\nraise SystemExit('imported ' + __name__)\n"
    for name in (*sys.stdlib_module_names, *OURS, *THEIRS, "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text(mark)
    (folder / "good.yaml").write_text(MANIFEST)
    return folder


def marked(folder: Path) -> str:
    mark = folder.parent / "mark"
    return mark.read_text() if mark.exists() else ""


def run(folder: Path, *argv: str, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["MESHLOG_STATE"] = str(folder.parent / "state")
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert marked(folder) == ""
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_folder_would_be_imported_from_without_care(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "json.tool", "--help"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert marked(folder)


@pytest.mark.parametrize(
    "start", [(MESHLOG,), (sys.executable, "-P", "-m", "cli")], ids=["meshlog", "python -P -m cli"]
)
@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("version",),
        ("install",),
        ("compile", "-f", "good.yaml"),
        ("run", "compiler", "--help"),
        ("run", "ingestor", "--help"),
        ("run", "ca", "--help"),
        ("run", "injector", "--help"),
        ("run", "xds-edge", "--help"),
        ("sidecar-init", "--help"),
    ],
    ids="-".join,
)
def test_verbs_import_nothing_from_there(folder: Path, start: tuple[str, ...], words: tuple[str, ...]) -> None:
    run(folder, *start, *words)


@pytest.mark.devcluster
@pytest.mark.envoy
@pytest.mark.nats
def test_neither_does_a_mesh_nor_what_runs_in_its_pods(folder: Path) -> None:
    try:
        assert "The mesh is up" in run(folder, MESHLOG, "up")
        run(folder, MESHLOG, "apply", "-f", "good.yaml", "--wait")
        assert "compiler 1/1" in run(folder, MESHLOG, "status", code=0)
    finally:
        run(folder, MESHLOG, "down", "--forget")


def test_a_plain_python_m_lets_go_of_the_folder(tmp_path: Path) -> None:
    """What the interpreter imports by itself aside."""
    for name in ("queue", "decimal", "yaml", "msgspec", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    done = subprocess.run(
        [sys.executable, "-m", "cli", "version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("part", ["benchmarks", "cli", "deploy", "services", "shared", "tools"])
def test_every_python_is_started_in_one_way(part: str) -> None:
    """By `shared.service.interpreter.module`; commands for pods say `-P` themselves."""
    found: list[str] = []
    for path in (ROOT / part).rglob("*.py"):
        if path == ROOT / "shared" / "interpreter.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.List | ast.Tuple | ast.Call):
                words = [
                    one.value
                    for one in (node.args if isinstance(node, ast.Call) else node.elts)
                    if isinstance(one, ast.Constant)
                ]
                if "-m" in words and len(words) > 1 and "-P" not in words:
                    found.append(f"{path}:{node.lineno}")
    assert found == []


def test_commands_of_our_pods_leave_the_folder_out() -> None:
    for path in [
        *(ROOT / "deploy").rglob("*.yaml"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
        ROOT / "Makefile",
    ]:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            ours = "deploy.demo" in line or "$(BIN)/python" in line
            if ours and ("-m deploy" in line or "-m, deploy" in line or "python -m" in line):
                assert "-P" in line, f"{path}:{number}"
