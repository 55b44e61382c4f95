"""`meshlog run ingestor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from services.ingestor.app import serve
from services.ingestor.settings import IngestorSettings
from shared.service import process


def main(argv: Sequence[str]) -> int:
    """Run the ingestor until it is stopped; returns the exit code."""
    return process.main("ingestor", IngestorSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
