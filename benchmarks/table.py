"""One shape for every benchmark: rows that are printed as a table and written as one JSON object (`JSON=file`)."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One figure."""

    what: str
    figure: float
    unit: str
    budget: str = ""
    """The budget of docs/architecture.md, in words; empty: none."""


class Result(msgspec.Struct, frozen=True):
    """What one benchmark measured, and how to repeat it."""

    name: str
    command: str
    rows: list[Row]

    def show(self) -> None:
        """Print the table; with the environment variable JSON also write the object there."""
        widest = max(len(row.what) for row in self.rows)
        print(f"{self.name}   (repeat with: {self.command})")
        for row in self.rows:
            budget = f"   budget: {row.budget}" if row.budget else ""
            print(f"  {row.what:<{widest}}  {row.figure:>10g} {row.unit}{budget}")
        if path := os.environ.get("JSON"):
            Path(path).write_bytes(msgspec.json.encode(self))
