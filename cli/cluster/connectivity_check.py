"""One step of `meshlog verify connectivity`."""

from __future__ import annotations

import msgspec


class ConnectivityCheck(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    fine: bool
    found: str
    """What was seen; for what is not fine, also what to do."""
