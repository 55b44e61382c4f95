"""Fifty seeds of the whole control plane under faults; `make simulate` runs ten thousand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(180)
def test_every_promise_holds_in_fifty_histories_of_faults() -> None:
    """In processes of their own: a seed is repeatable only under a fixed hash seed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", "0:50"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
