"""Passes sockets from the host to the devcluster's process, and reports its progress back.

A listening socket that was created on the host stays in the host's network, whichever process accepts on it: so
`kubectl` reaches an API server in other namespaces. Descriptors are inherited, and their numbers are in an environment
variable. Progress is sent through a pipe as JSON lines.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "MESHLOG_INHERITED"


class Handover:
    """The devcluster's end: inherited sockets by name, the control socket, and the progress pipe."""

    def __init__(
        self, *, state_dir: Path, listeners: Mapping[str, socket.socket], control: socket.socket, ready: int
    ) -> None:
        self.state_dir = state_dir
        self.listeners = dict(listeners)
        """Listening TCP sockets of the host, by the names passed to `mesh_process.start`."""
        self.control = control
        """The listening control socket; `deploy.devcluster.launch.control.ControlServer` serves it."""
        self._ready = ready

    @classmethod
    def from_environment(cls) -> Handover:
        """Take over the inherited descriptors; child processes do not inherit them."""
        passed = json.loads(os.environ.pop(VARIABLE))
        descriptors = [*passed["listeners"].values(), passed["control"], passed["ready"]]
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return cls(
            state_dir=Path(passed["state_dir"]),
            listeners={name: socket.socket(fileno=number) for name, number in passed["listeners"].items()},
            control=socket.socket(fileno=passed["control"]),
            ready=passed["ready"],
        )

    def progress(self, sentence: str) -> None:
        """Report a step to `meshlog up`."""
        self._report({"progress": sentence})

    def ready(self, **facts: Any) -> None:
        """Report that the mesh is ready; `meshlog up` returns with these facts. A closed pipe is no error."""
        self._report({"ready": facts})
        self._close()

    def failed(self, code: str, sentence: str) -> None:
        """Report bad input; `meshlog up` prints the sentence and exits with 2. The caller must exit."""
        report_failure(self._ready, code, sentence)
        self._close()

    def _report(self, line: dict[str, Any]) -> None:
        if self._ready >= 0:
            report(self._ready, line)

    def _close(self) -> None:
        if self._ready >= 0:
            os.close(self._ready)
        self._ready = -1


def report(descriptor: int, line: dict[str, Any]) -> None:
    """Write one line to the progress pipe. A closed pipe is ignored (Python ignores SIGPIPE)."""
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        return


def report_failure(descriptor: int, code: str, sentence: str) -> None:
    """Report why the mesh cannot start."""
    report(descriptor, {"failed": {"code": code, "sentence": sentence}})
