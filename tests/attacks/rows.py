"""The rows of `make attack`: every `ATTACKS` of a module of this package, in the order of the modules' names."""

from __future__ import annotations

import importlib
import pkgutil

import tests.attacks
from tests.attacks.attack import Attack


def attacks() -> tuple[Attack, ...]:
    """All of them. Raises `ValueError` if two have one name."""
    found: dict[str, Attack] = {}
    for module in pkgutil.iter_modules(tests.attacks.__path__):
        if module.name.startswith(("__", "test_")):
            continue
        imported = importlib.import_module(f"{tests.attacks.__name__}.{module.name}")
        for attack in getattr(imported, "ATTACKS", ()):
            if attack.name in found:
                raise ValueError(f"two attacks are called {attack.name}")
            found[attack.name] = attack
    return tuple(found.values())
