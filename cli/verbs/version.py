"""`meshlog version`: which build this is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from shared.build import VERSION


def main(argv: Sequence[str]) -> int:
    """Print the version, as a word or as JSON."""
    parser = argparse.ArgumentParser(prog="meshlog version", description="Print the version of this build.")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    output = parser.parse_args(argv).output
    print(json.dumps({"version": VERSION}) if output == "json" else f"meshlog {VERSION}")
    return 0
