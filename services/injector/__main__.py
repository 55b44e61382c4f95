"""The injector as a process: `meshlog run injector`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from services.injector.app import serve
from services.injector.settings import InjectorSettings
from shared.service import process


def main(argv: Sequence[str]) -> int:
    """Run the injector. Returns the exit code."""
    return process.main("injector", InjectorSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
