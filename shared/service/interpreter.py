"""How Meshlog starts a Python of its own: so that nothing is imported from the folder where it happens to run.

`python -m` puts the current folder first on the path: a `queue.py` that lies there would be run with all rights of
`meshlog up`, in each of its processes. `-P` leaves it out; the packages come from where they are installed.
"""

from __future__ import annotations

import sys


def module(name: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours in an interpreter like this one."""
    return [sys.executable, "-P", "-m", name, *arguments]
