"""Starts Python processes of Meshlog so that nothing is imported from the current folder.

`python -m` puts the current folder first on the path: a `queue.py` there would run with all rights of `meshlog up`, in
each of its processes. `-P` leaves the folder out; packages come from where they are installed.
"""

from __future__ import annotations

import sys


def module(name: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of Meshlog in this interpreter."""
    return [sys.executable, "-P", "-m", name, *arguments]
