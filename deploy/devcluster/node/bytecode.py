"""Compiles this mesh's own Python ahead, since containers see it read-only and could keep nothing that they compile.

Without it each start of each container would compile what it imports anew (seconds). Looking takes milliseconds, and
mostly there is nothing to do; the work, after an update, is a process of its own beside the start of the cluster.
`main` also imports what the services import, if a dependency was installed uncompiled: that compiles what is used of
it, where compiling all would take minutes.
"""

from __future__ import annotations

import asyncio
import compileall
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.service.interpreter import module

_log = logging.getLogger(__name__)
_DEPENDENCIES = (
    "aiohttp",
    "cryptography",
    "h2",
    "kubernetes",
    "msgspec",
    "nats",
    "opentelemetry.sdk",
    "uvloop",
    "yaml",
)
"""Packages whose first file tells how they were installed."""
_SERVICES = ("ca", "compiler", "ingestor", "injector", "xds_edge")
_TREE = Path(__file__).resolve().parents[3]
_PACKAGES = ("cli", "deploy", "services", "shared")


async def compile_ahead() -> None:
    """Compile what is stale; what cannot be kept is said once, as it makes every start slower."""
    stale = await asyncio.to_thread(lambda: list(find_stale(_sources())))
    if not stale:
        return
    refused = sorted({str(path.parent) for path in stale if not _keepable(path)})
    if refused:
        _log.info("no bytecode can be written in %s (%d places): containers start slower", refused[0], len(refused))
    if len(refused) == len({path.parent for path in stale}):
        return
    process = await asyncio.create_subprocess_exec(*module("deploy.devcluster.node.bytecode"))
    try:
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise


def find_stale(sources: Iterable[Path]) -> Iterator[Path]:
    """Those source files whose bytecode the interpreter would not take."""
    for path in sources:
        found = path.stat()
        try:
            with open(importlib.util.cache_from_source(str(path)), "rb") as stream:  # noqa: PTH123 - hundreds of files
                head = stream.read(16)
        except OSError:
            yield path
            continue
        checked_by_time = head[4:8] == b"\0\0\0\0"
        written = (int(found.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (found.st_size & 0xFFFFFFFF).to_bytes(
            4, "little"
        )
        if head[:4] != importlib.util.MAGIC_NUMBER or (checked_by_time and head[8:] != written):
            yield path


def main() -> None:
    """Compile; errors in files of dependencies are theirs."""
    os.nice(5)
    for name in _PACKAGES:
        compileall.compile_dir(_TREE / name, quiet=2)
    if any(find_stale(_origins())):
        for name in _SERVICES:
            importlib.import_module(f"services.{name}.__main__")


def _sources() -> Iterator[Path]:
    for name in _PACKAGES:
        yield from (_TREE / name).rglob("*.py")
    yield from _origins()


def _origins() -> Iterator[Path]:
    for name in _DEPENDENCIES:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            continue
        if found is not None and found.origin is not None and found.origin.endswith(".py"):
            yield Path(found.origin)


def _keepable(source: Path) -> bool:
    directory = source.parent / "__pycache__"
    return os.access(directory if directory.is_dir() else source.parent, os.W_OK)


if __name__ == "__main__":
    sys.exit(main())
