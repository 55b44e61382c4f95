"""`meshlog version`: prints the version of this build."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cli.terminal import output
from shared.build import VERSION


def main(argv: Sequence[str]) -> int:
    """Print the version as text or as JSON. Returns 0."""
    parser = argparse.ArgumentParser(prog="meshlog version", description="Print the version of this build.")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    if parser.parse_args(argv).output == "json":
        output.json({"version": VERSION})
    else:
        output.line(f"meshlog {VERSION}")
    return 0
