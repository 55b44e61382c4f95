"""Long work in short steps. Pure.

A compile may take seconds, of which each step takes milliseconds. Work in steps is a generator that yields where it may
be interrupted: the owner of the event loop runs other tasks there (`services.compiler.log.loop_turns`), and
the core knows no event loop. Run to the end without a pause, it does the same.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that yields between its steps, and returns its result."""


def finished(steps: Steps[T]) -> T:
    """Do all steps at once; the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
