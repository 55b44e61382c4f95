"""What policy names: objects in namespaces."""

from __future__ import annotations

from typing import NamedTuple


class ObjectName(NamedTuple):
    """A namespaced object of a kind that the context tells."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
