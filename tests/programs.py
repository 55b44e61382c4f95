"""Programs that tests run: Envoy, which an installation brings, and Helm and others, which a machine may have."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def envoy_binary() -> str:
    """Envoy, beside this Python or on the path; without it the installation is broken, and so are its tests."""
    found = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert found is not None, "there is no Envoy: make install"
    return found


_HELM = os.environ.get("MESHLOG_HELM") or shutil.which("helm")
needs_helm = pytest.mark.skipif(_HELM is None, reason="no Helm: name one in MESHLOG_HELM or put it on PATH")


def helm_binary() -> str:
    """Helm, for tests that are marked `needs_helm`."""
    assert _HELM is not None
    return _HELM


TOOLS = Path(__file__).parent.parent / ".tools"
"""What `make edge-clients` builds: tests use it if it is there, and build nothing themselves."""


def built(name: str) -> Path | None:
    """A program or a directory of `make edge-clients`; none: it was not made here."""
    found = TOOLS / name
    return found if found.exists() else None


def needs_built(name: str) -> pytest.MarkDecorator:
    """Skip a test without it, and say how it is made."""
    return pytest.mark.skipif(built(name) is None, reason=f"no {name}: make edge-clients")
