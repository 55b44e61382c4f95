"""The labels of membership are judged in one module alone."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
WRITE_THEM = {
    "shared/projected_objects.py",  # names them
    "shared/membership.py",  # judges them
    "shared/records/withheld.py",  # copies them into the small form of a large Namespace
    "shared/policy/support_matrix.py",  # documents them
    "cli/cluster/namespace_membership.py",  # sets and removes them
    "cli/cluster/connectivity.py",  # prints the name of one
    "deploy/install/control_plane.py",  # sets one on the mesh's own namespace
}
NAMED = re.compile(r"LABEL_MONITORED_BY|LABEL_IGNORE|openservicemesh\.io/(monitored-by|ignore)")


def test_no_other_module_reads_the_labels_of_membership() -> None:
    """A second reading of the labels would be a second rule: ask `shared.membership` instead."""
    found = {
        str(path.relative_to(ROOT))
        for package in ("services", "shared", "cli", "deploy")
        for path in (ROOT / package).rglob("*.py")
        if NAMED.search(re.sub(r'"""(.|\n)*?"""', "", path.read_text()))
    }
    assert found - WRITE_THEM == set()
