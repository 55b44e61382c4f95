"""`make faults`: breaks a highly available mesh in every way of `rows`, under traffic, and prints what happened.

The command line is that of `tests.rows_main`; docs/reliability.md has the table.
"""

from __future__ import annotations

import sys

from tests.faults.fault import Outcome, tell
from tests.faults.rows import FAULTS
from tests.faults.scene import Scene, opened
from tests.faults.table import line, markdown, summary, title
from tests.rows_main import Suite

SUITE = Suite(
    name="faults",
    rows=lambda: FAULTS,
    opened=lambda: opened(Scene),
    tell=tell,
    line=line,
    wrong=lambda outcome: (*outcome.wrong, *outcome.late),
    summary=summary,
    markdown=markdown,
    outcome=Outcome,
    title=title(),
    ha=True,
)

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
