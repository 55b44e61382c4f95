"""Compiles the mesh's Python modules ahead of time, because containers see them read-only and cannot store bytecode.

Otherwise each start of a container would compile its imports (seconds). The check takes milliseconds and usually finds
nothing to do; after an update a separate process compiles while the cluster starts. If a dependency was installed
without bytecode, `main` imports the services, which compiles only the used modules; compiling all takes minutes.
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
"""Packages whose first file shows whether they were installed with bytecode."""
_SERVICES = ("ca", "compiler", "ingestor", "injector", "xds_edge")
_TREE = Path(__file__).resolve().parents[3]
_PACKAGES = ("cli", "deploy", "services", "shared")


async def compile_ahead() -> None:
    """Compile stale modules. Logs once if bytecode cannot be stored, since each container start is slower then."""
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
    """Source files whose bytecode is missing or out of date."""
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
    """Compile the packages; errors in files are ignored."""
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
