"""`meshlog sidecar-init`: runs the init container that redirects a pod's traffic to its sidecar."""

from __future__ import annotations

from collections.abc import Sequence

from services.injector import sidecar_init


def main(argv: Sequence[str]) -> int:
    """Run the init container. Returns the exit code."""
    return sidecar_init.main(argv)
