"""What all tests share."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

_LONGEST_FIRST = ("tests/e2e/", "tests/faults/", "tests/docs/", "tests/health/", "tests/attacks/", "tests/integration/")
"""Folders whose files take the longest, so that at the end of a run no worker is left with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for pytest-xdist, which gives each to the next worker that is free; within a folder at random."""

    def place(item: pytest.Item) -> int:
        return next(
            (at for at, folder in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(folder)), len(_LONGEST_FIRST)
        )

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let a test that fails over text that no encoding can carry be reported by a worker of pytest-xdist."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(_encodable(each) for each in value)
        case _:
            return value
