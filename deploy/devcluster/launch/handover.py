"""What the host hands to the devcluster's process, and how that process tells how far it is.

Listening sockets that were made on the host stay in the host's network, whoever accepts on them: that is how
`kubectl` reaches an API server that lives in other namespaces. Descriptors travel by inheritance, their numbers in an
environment variable; progress goes back through a pipe, one JSON object a line.
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
    """The devcluster's side: sockets by name, the control socket, and the way to say "ready"."""

    def __init__(
        self, *, state_dir: Path, listeners: Mapping[str, socket.socket], control: socket.socket, ready: int
    ) -> None:
        self.state_dir = state_dir
        self.listeners = dict(listeners)
        """Listening TCP sockets of the host, by the names that `start` was given."""
        self.control = control
        """The listening control socket; `deploy.devcluster.launch.control.ControlServer` serves it."""
        self._ready = ready

    @classmethod
    def from_environment(cls) -> Handover:
        """Take over the descriptors; they are closed for whatever this process starts."""
        told = json.loads(os.environ.pop(VARIABLE))
        descriptors = [*told["listeners"].values(), told["control"], told["ready"]]
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return cls(
            state_dir=Path(told["state_dir"]),
            listeners={name: socket.socket(fileno=number) for name, number in told["listeners"].items()},
            control=socket.socket(fileno=told["control"]),
            ready=told["ready"],
        )

    def progress(self, sentence: str) -> None:
        """Tell whoever waits at `meshlog up` what is going on."""
        self._tell({"progress": sentence})

    def ready(self, **facts: Any) -> None:
        """The mesh is up: `up` returns with these facts. Nobody may be listening any more; that is no error."""
        self._tell({"ready": facts})
        self._close()

    def failed(self, code: str, sentence: str) -> None:
        """Bad input or a machine that will not do: `up` says the sentence and exits with 2. The caller ends itself."""
        tell_failure(self._ready, code, sentence)
        self._close()

    def _tell(self, line: dict[str, Any]) -> None:
        if self._ready >= 0:
            tell(self._ready, line)

    def _close(self) -> None:
        if self._ready >= 0:
            os.close(self._ready)
        self._ready = -1


def tell(descriptor: int, line: dict[str, Any]) -> None:
    """One line to whoever waits; whoever went away does not matter (Python ignores SIGPIPE)."""
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        return


def tell_failure(descriptor: int, code: str, sentence: str) -> None:
    """Say why there will be no mesh."""
    tell(descriptor, {"failed": {"code": code, "sentence": sentence}})
