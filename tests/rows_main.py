"""The command line of the suites that tell rows on a real mesh: `tests.faults`, `tests.attacks`, `tests.health`.

    python -P -m tests.faults                              every row
    python -P -m tests.faults kill-compiler-leader cut-    those rows, and all that begin so
    JSON=file python -P -m tests.faults                    also writes one object, anew after each row
    python -P -m tests.faults table file                   that object as the table of the suite's page

`$FAULTS_STATE` (of each suite its own) names the directory of a mesh that runs (`meshlog up`); without it one is
started and ended again, a highly available one with `HA=1`. The exit code is 1 if a row does not hold, 2 for a row that
is not there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, Protocol, TextIO, TypeVar

import msgspec

from cli.embedded import lifecycle
from cli.kubernetes import api_client, kubeconfig
from deploy.devcluster.launch import mesh_process
from shared.errors import MeshlogError


class Named(Protocol):
    """A row."""

    @property
    def name(self) -> str:
        """What selects it."""
        ...

    @property
    def what(self) -> str:
        """What a reader of the table understands."""
        ...


S = TypeVar("S")
R = TypeVar("R", bound=Named)
T = TypeVar("T")


def _say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream, flush=True)


def _keep(found: Sequence[object]) -> None:
    if path := os.environ.get("JSON"):
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(found)))


class Suite(msgspec.Struct, Generic[S, R, T], frozen=True, kw_only=True):
    """What a suite consists of: `S` its scene, `R` a row, `T` what came of one."""

    name: str
    rows: Callable[[], Sequence[R]]
    opened: Callable[[], AbstractAsyncContextManager[S]]
    """Its scene, on the mesh that runs."""
    tell: Callable[[S, R], Awaitable[T]]
    line: Callable[[T], str]
    """One outcome, for the terminal."""
    wrong: Callable[[T], Sequence[str]]
    """Why it does not hold; empty: it does."""
    summary: Callable[[Sequence[T]], str]
    markdown: Callable[[Sequence[T]], str]
    outcome: type[T]
    title: str = ""
    ha: bool = False
    """Whether it needs a highly available mesh."""

    def chosen(self, names: Sequence[str]) -> list[R]:
        """The rows that these names, or beginnings of names, select; all if there are none.

        Exits with 2 for a name that selects none.
        """
        rows = self.rows()
        for name in names:
            if not any(row.name.startswith(name) for row in rows):
                known = "\n  ".join(f"{row.name:<28} {row.what}" for row in rows)
                _say(f"{self.name}: there is no row {name!r}; these are there:\n  {known}", sys.stderr)
                sys.exit(2)
        return [row for row in rows if not names or any(row.name.startswith(name) for name in names)]

    async def run(self, rows: Sequence[R]) -> list[T]:
        """Tell them one after the other, on the mesh that runs."""
        found: list[T] = []
        async with api_client.connect(kubeconfig.read(lifecycle.state_directory() / lifecycle.KUBECONFIG)) as session:
            await lifecycle.control_plane_available(session, lambda _: None)
        if self.title:
            _say(self.title)
        async with self.opened() as scene:
            for row in rows:
                found.append(outcome := await self.tell(scene, row))
                _keep(found)
                _say(self.line(outcome))
                for sentence in self.wrong(outcome):
                    _say(f"    {sentence}")
        return found

    def main(self, arguments: Sequence[str]) -> int:
        """Start a mesh (or take the one that is named), tell the rows, end it; the exit code."""
        if arguments[:1] == ["table"]:
            _say(self.markdown(msgspec.json.decode(Path(arguments[1]).read_bytes(), type=list[self.outcome])))
            return 0
        rows = self.chosen(arguments)
        with tempfile.TemporaryDirectory(prefix=f"meshlog-{self.name}-") as fresh:
            given = os.environ.get(f"{self.name.upper()}_STATE")
            os.environ[lifecycle.STATE_VARIABLE] = given or fresh
            try:
                if not given:
                    ha = self.ha or bool(os.environ.get("HA"))
                    lifecycle.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None, ha=ha)
                found = asyncio.run(self.run(rows))
            except MeshlogError as error:
                _say(f"{self.name}: {error}", sys.stderr)
                return 2
            finally:
                if not given:
                    mesh_process.down(lifecycle.state_directory())
        _say(self.summary(found))
        return 1 if any(self.wrong(outcome) for outcome in found) else 0
