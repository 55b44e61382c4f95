"""Which bytecode is stale, by the interpreter's own rules."""

from __future__ import annotations

import importlib.util
import os
import py_compile
from pathlib import Path

from deploy.devcluster.node.bytecode import find_stale


def test_bytecode_that_the_interpreter_would_take_is_not_stale(tmp_path: Path) -> None:
    sources = [tmp_path / f"{name}.py" for name in ("fresh", "hashed", "older", "longer", "foreign", "missing", "cut")]
    for path in sources:
        path.write_text("x = 1\n")
        by_hash = path.stem == "hashed"
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH if by_hash else py_compile.PycInvalidationMode.TIMESTAMP
        py_compile.compile(str(path), invalidation_mode=mode)
    fresh, _, older, longer, foreign, missing, cut = sources
    stamp = older.stat().st_mtime_ns
    os.utime(older, ns=(stamp + 2 * 10**9, stamp + 2 * 10**9))
    stamp = longer.stat().st_mtime_ns
    longer.write_text("x = 12\n")
    os.utime(longer, ns=(stamp, stamp))
    cached = Path(importlib.util.cache_from_source(str(foreign)))
    cached.write_bytes(b"xxxx" + cached.read_bytes()[4:])
    Path(importlib.util.cache_from_source(str(missing))).unlink()
    Path(importlib.util.cache_from_source(str(cut))).write_bytes(b"")
    assert list(find_stale(sources)) == [older, longer, foreign, missing, cut]
    assert list(find_stale([fresh])) == []
