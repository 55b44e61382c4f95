"""`make attack`: attacks a mesh in every way of `rows`, under traffic, and prints what it cost and what was noticed.

The command line is that of `tests.rows_main`; docs/security.md has the table.
"""

from __future__ import annotations

import sys

from tests.attacks.attack import Outcome, tell
from tests.attacks.rows import attacks
from tests.attacks.scene import AttackScene
from tests.attacks.table import line, markdown, summary, title
from tests.faults.scene import opened
from tests.rows_main import Suite

SUITE = Suite(
    name="attack",
    rows=attacks,
    opened=lambda: opened(AttackScene),
    tell=tell,
    line=line,
    wrong=lambda outcome: (*outcome.wrong, *outcome.late),
    summary=summary,
    markdown=markdown,
    outcome=Outcome,
    title=title(),
)

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
