"""The `meshlog` command as a person runs it: a process with its own state directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_heirs: list[subprocess.Popen[bytes]] = []
"""Those who wait for the end of these tests: kept, or Python ends their wait when a `Command` is no longer used."""


class Command:
    """Runs `meshlog` against one state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.environment = {**os.environ, "MESHLOG_STATE": str(state), "KUBECONFIG": str(state / "kubeconfig")}
        self._heir: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: str, within: float = 100) -> subprocess.CompletedProcess[str]:
        """Run to the end; the result has exit code, stdout and stderr."""
        if arguments[:1] == ("up",):
            self._bequeath()
        done = self.run([sys.executable, "-m", "cli", *arguments], within=within)
        if arguments[:1] == ("down",) and done.returncode == 0 and self._heir is not None:
            self._heir.communicate(b"it is down")
            self._heir = None
        return done

    def run(self, argv: Sequence[str], *, within: float = 100) -> subprocess.CompletedProcess[str]:
        """Run another program (kubectl) in the same environment."""
        return subprocess.run(
            argv,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def _bequeath(self) -> None:
        """A mesh that is brought up outlives its command: should these tests be killed, another process ends it."""
        if self._heir is None:
            down = "subprocess.run([sys.executable, '-m', 'cli', 'down'])"
            self._heir = subprocess.Popen(
                [sys.executable, "-c", f"import subprocess, sys; sys.stdin.read() or {down}"],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _heirs.append(self._heir)


def mentioning(text: str) -> list[str]:
    """Command lines of running processes that hold the text: what a test may have left behind."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
