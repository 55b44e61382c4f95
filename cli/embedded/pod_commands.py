"""Runs commands inside pods of the embedded mesh, with pipes; the demo and the tests send traffic with them.

`meshlog exec` passes the terminal on instead (`deploy.devcluster.launch.control.exec_in_pod`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from deploy.devcluster.launch import control
from shared.errors import MeshlogError


class PodCommand:
    """A command that runs inside a pod."""

    def __init__(
        self, what: str, ended: asyncio.Task[int], output: asyncio.StreamReader, transports: list[asyncio.BaseTransport]
    ) -> None:
        self._what = what
        self._ended = ended
        self._output = output
        self._transports = transports
        self._input: asyncio.WriteTransport | None = None

    @classmethod
    async def start(
        cls, state_dir: Path, namespace: str, pod: str, argv: Sequence[str], *, container: str = ""
    ) -> PodCommand:
        """Start it in a container (the pod's first); its standard output and error are one stream."""
        loop = asyncio.get_running_loop()
        theirs_in, ours_out = os.pipe2(os.O_CLOEXEC)
        ours_in, theirs_out = os.pipe2(os.O_CLOEXEC)
        reader = asyncio.StreamReader(limit=1 << 20)
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb", buffering=0)
        )
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(ours_out, "wb", buffering=0))
        request = {"op": "exec", "namespace": namespace, "pod": pod, "container": container, "argv": list(argv)}

        def converse() -> int:
            try:
                answers = list(
                    control.ask(state_dir, {**request, "environment": {}}, [theirs_in, theirs_out, theirs_out])
                )
            finally:
                os.close(theirs_in)
                os.close(theirs_out)
            return int(answers[-1]["exit"]) if answers else 1

        ended = asyncio.ensure_future(asyncio.to_thread(converse))
        command = cls(f"{namespace}/{pod}: {' '.join(argv)}", ended, reader, [reading, writing])
        command._input = writing
        return command

    async def line(self, *, within: float) -> str:
        """The next line that it prints; raises `MeshlogError` if it ends or prints nothing in time."""
        try:
            async with asyncio.timeout(within):
                line = await self._output.readline()
        except TimeoutError as error:
            raise MeshlogError("exec/silent", f"said nothing within {within:g} s", about=self._what) from error
        if not line:
            raise MeshlogError("exec/ended", "ended without a word", about=self._what)
        return line.decode("utf-8", "replace").rstrip("\n")

    async def end_input(self, *, within: float) -> str:
        """Close its standard input, at which it ends, then do as `finish`."""
        if self._input is not None:
            self._input.close()
        return await self.finish(within=within)

    async def finish(self, *, within: float) -> str:
        """The rest of its output once it has ended; raises `MeshlogError` if it fails or takes too long."""
        try:
            async with asyncio.timeout(within):
                output = (await self._output.read()).decode("utf-8", "replace")
                code = await self._ended
        except TimeoutError as error:
            raise MeshlogError("exec/slow", f"did not end within {within:g} s", about=self._what) from error
        finally:
            for transport in self._transports:
                transport.close()
        if code != 0:
            raise MeshlogError("exec/failed", f"ended with {code}: {output.strip()[-500:]}", about=self._what)
        return output
