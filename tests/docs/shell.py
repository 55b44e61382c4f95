"""A reader's terminal: commands of a document, one after the other, in one shell and one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs.blocks import ROOT, Block, Command, agrees

_EXPORT = re.compile(r"export ([A-Z_]+)=")


class Shell:
    """One bash; what it is asked to run is what stands on the page."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, within: float) -> None:
        self._within = within
        bin_directory = Path(sys.executable).parent
        path = f"{bin_directory}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, **environment, "PATH": path, "COLUMNS": "200", "NO_COLOR": "1"}
        self._folder = folder
        self._carried = ""
        """What earlier commands left in the shell: exported variables, aliases."""
        self.complaints = ""
        """What the last command wrote to standard error."""

    def run(self, command: Command) -> tuple[int, list[str]]:
        """Exit code and the lines of standard output."""
        exported = _EXPORT.match(command.typed)
        kept = self._folder / ".exported"
        script = f"shopt -s expand_aliases\n{self._carried}{command.typed}\n"
        if exported:
            script += f"declare -p {exported[1]} > {shlex.quote(str(kept))}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=self._within,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode == 0 and exported:
            self._carried += kept.read_text()
        elif done.returncode == 0 and command.typed.startswith("alias "):
            self._carried += f"{command.typed.replace('$PWD', str(self._folder))}\n"
        if done.returncode not in (0, 1) and not command.expected:
            raise AssertionError(f"{command.typed!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        self.complaints = done.stderr
        return done.returncode, done.stdout.rstrip("\n").splitlines() if done.stdout.strip() else []


def run(block: Block, shell: Shell) -> None:
    """Run every command of a block and compare what it prints; raises `AssertionError` with both."""
    for command in block.commands():
        code, printed = shell.run(command)
        about = f"{block.document}:{command.line}: $ {command.typed}"
        if not command.expected:
            assert code == 0 or printed, f"{about}\nended with {code} and said nothing\n{shell.complaints}"
        elif not agrees(command.expected, printed):
            said, found = "\n".join(command.expected), "\n".join(printed)
            raise AssertionError(
                f"{about}\n--- the document says\n{said}\n--- it prints (exit code {code})\n{found}\n{shell.complaints}"
            )


def prepare(folder: Path, blocks: list[Block]) -> None:
    """Save what the reader is told to save; make the folders of the repository that pages refer to reachable."""
    for block in blocks:
        if block.saved:
            (folder / block.saved).write_text("\n".join([*block.lines, ""]), encoding="utf-8")
    for name in ("deploy", "docs", ".venv", "Makefile"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
