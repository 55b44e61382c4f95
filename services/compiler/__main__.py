"""The compiler as a process: `meshlog run compiler`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from services.compiler.app import serve
from services.compiler.settings import CompilerSettings
from shared.service import process


def main(argv: Sequence[str]) -> int:
    """Run the compiler. Returns the exit code."""
    return process.main("compiler", CompilerSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
