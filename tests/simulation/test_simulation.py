"""Fifty seeds of the whole control plane under faults; `make simulate` runs ten thousand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def _simulated(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In processes of their own: a seed is repeatable only under a fixed hash seed."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


@pytest.mark.timeout(180)
def test_every_promise_holds_in_fifty_histories_of_faults() -> None:
    """Three commits of each are compared with a compile from scratch; `make simulate` compares every one."""
    done = _simulated("--seeds", "0:50", "--compared", "3")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("mistake", "seeds"), [("forgetful", "0:2"), ("late", "0:4")])
def test_a_commit_that_keeps_a_right_after_its_policy_is_gone_is_noticed(mistake: str, seeds: str) -> None:
    done = _simulated("--seeds", seeds, "--mistake", mistake)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "P6, commit " in done.stdout, done.stdout + done.stderr
