"""What policy names: objects in namespaces."""

from __future__ import annotations

from typing import NamedTuple


class ObjectName(NamedTuple):
    """A namespaced object whose kind is known from the context."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
