"""Run atheris, the coverage-guided fuzzer; it has wheels for Linux only and is therefore no dependency."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def fuzz(
    target: str, include: Sequence[str], load: Callable[[], tuple[Callable[[bytes], object], Iterable[bytes]]]
) -> int:
    """Run until the time is over or something breaks; atheris takes its flags from the command line.

    `target`: of the Makefile. `include`: packages whose branches guide it. `load`, called when their imports are
    watched, gives what is fuzzed and what to start from.
    """
    try:
        import atheris
    except ImportError:
        print(f"{target} needs atheris: .venv/bin/python -m pip install atheris", file=sys.stderr)  # noqa: T201
        return 2
    fuzzer: Any = atheris
    with fuzzer.instrument_imports(include=list(include)):
        judge, seeds = load()
    with tempfile.TemporaryDirectory(prefix="meshlog-fuzz-") as corpus:
        for number, content in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(content)
        fuzzer.Setup([*sys.argv, "-max_len=4096", corpus], judge)
        fuzzer.Fuzz()
    return 0
