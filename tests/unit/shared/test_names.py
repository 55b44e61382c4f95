"""Names and ports that several parts share are written in one place alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from shared import names
from shared.kubernetes import reserved_ports

ROOT = Path(__file__).parents[3]
HOMES = {"shared/names.py", "shared/kubernetes/reserved_ports.py"}
COMMON = {"denied"}
"""A word that means other things elsewhere."""
TEXTS = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)} - COMMON
PORTS = {value for home in (names, reserved_ports) for name, value in vars(home).items() if name.endswith("_PORT")}
BUILT = ("meshlog-webhook-", "meshlog-validator-", "/meshlog-trust-bundle", ":15128", "/osm-mesh-config")
"""Parts of texts that are put together from a shared name."""


def values(path: Path) -> Iterator[object]:
    """The values in a module that are no docstring and no help for people."""
    tree = ast.parse(path.read_text())
    prose = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if isinstance(one, ast.Constant) and id(one) not in prose:
            yield one.value


def test_no_other_module_writes_a_shared_name_or_port() -> None:
    """It would go on working until one of the two changes: import it from `shared.names`."""
    assert names.MESH_CONFIG in TEXTS
    assert {names.XDS_PORT, reserved_ports.INBOUND_PORT} <= PORTS
    modules = [path for package in ("services", "shared", "cli", "deploy") for path in (ROOT / package).rglob("*.py")]
    found = {
        f"{path.relative_to(ROOT)}: {value}"
        for path in modules
        if str(path.relative_to(ROOT)) not in HOMES
        for value in values(path)
        if (isinstance(value, str) and (value in TEXTS or (any(part in value for part in BUILT) and len(value) < 100)))
        or (type(value) is int and value in PORTS)
    }
    assert found == set()
