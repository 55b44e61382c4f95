"""`make health`: provokes what can be wrong with a mesh, one after the other, and sees it named within 5 s.

By `meshlog status`, `meshlog verify control-plane`, their exit codes, `/readyz`, metrics and conditions. The command
line is that of `tests.rows_main`; docs/health.md has the table.
"""

from __future__ import annotations

import sys

from tests.health.matrix import Outcome, tell
from tests.health.rows import ROWS
from tests.health.scene import opened
from tests.health.table import line, markdown, summary, wrong
from tests.rows_main import Suite

SUITE = Suite(
    name="health",
    rows=lambda: ROWS,
    opened=opened,
    tell=tell,
    line=line,
    wrong=wrong,
    summary=summary,
    markdown=markdown,
    outcome=Outcome,
)

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
