"""The CA as a process: `meshlog run ca`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from services.ca.app import serve
from services.ca.settings import CaSettings
from shared.service import process


def main(argv: Sequence[str]) -> int:
    """Run the CA. Returns the exit code."""
    return process.main("ca", CaSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
