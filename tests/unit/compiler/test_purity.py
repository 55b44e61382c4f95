"""What the compiler computes from: events, and nothing else (P1 of docs/architecture.md)."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

CORE = "services.compiler.core.compiler"
OURS = ("services", "shared")
OUTSIDE = {
    "aiohttp", "asyncio", "datetime", "getpass", "glob", "io", "kubernetes", "locale", "multiprocessing", "nats", "os",
    "pathlib", "platform", "random", "secrets", "shutil", "socket", "subprocess", "sys", "tempfile", "threading",
    "time", "uuid",
}  # fmt: skip
"""Modules that know the time, the machine, chance, files or the network."""
CALLS = {"open", "input", "id", "hash", "eval", "exec", "__import__"}
"""Functions whose answer is not one of their arguments alone."""


def reached() -> dict[str, Path]:
    """Every module of ours that the core imports, directly or not."""
    found: dict[str, Path] = {}
    left = [CORE]
    while left:
        name = left.pop()
        spec = importlib.util.find_spec(name)
        if name in found or spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        left += [one for one in imports(found[name]) if one.split(".")[0] in OURS and importlib.util.find_spec(one)]
    return found


def imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            if node.module.split(".")[0] in OURS:
                parent = Path(importlib.util.find_spec(node.module).origin or "")  # pyright: ignore[reportOptionalMemberAccess]
                if parent.name == "__init__.py":
                    names += [f"{node.module}.{one.name}" for one in node.names]
    return names


REACHED = reached()


@pytest.mark.parametrize("module", sorted(REACHED))
def test_the_core_knows_neither_time_nor_place_nor_chance(module: str) -> None:
    outside = {one.split(".")[0] for one in imports(REACHED[module])} & OUTSIDE
    assert not outside, "a snapshot is a function of events and build"
    called = {
        node.func.id
        for node in ast.walk(ast.parse(REACHED[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & CALLS


def test_the_whole_core_is_looked_at() -> None:
    folder = Path(__file__).parents[3] / "services" / "compiler"
    steps = [folder / step for step in ("derive", "views", "render")]
    within = {
        ".".join(path.relative_to(folder.parents[1]).with_suffix("").parts)
        for step in steps
        for path in step.rglob("*.py")
    }
    assert {name for name in within if not name.endswith("__init__")} <= REACHED.keys()
