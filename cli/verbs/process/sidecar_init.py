"""`meshlog sidecar-init`: the init container that redirects a pod's traffic to its sidecar."""

from __future__ import annotations

from collections.abc import Sequence

from services.injector import redirect


def main(argv: Sequence[str]) -> int:
    """Hand over to the injector's redirect."""
    return redirect.main(argv)
