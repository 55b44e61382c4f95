"""One shape for every benchmark: rows, which are printed as a table and written as JSON."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One figure."""

    what: str
    figure: float
    unit: str
    budget: str = ""
    """What it should be, in words; empty: nothing was asked for."""


class Result(msgspec.Struct, frozen=True):
    """What one benchmark measured, and how to repeat it."""

    name: str
    command: str
    rows: list[Row]

    def show(self) -> None:
        """Print the table."""
        widest = max(len(row.what) for row in self.rows)
        print(f"{self.name}   (repeat with: {self.command})")
        for row in self.rows:
            budget = f"   budget: {row.budget}" if row.budget else ""
            print(f"  {row.what:<{widest}}  {row.figure:>10g} {row.unit}{budget}")
