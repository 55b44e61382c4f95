"""One step of `meshlog verify connectivity`."""

from __future__ import annotations

import msgspec


class ConnectivityCheck(msgspec.Struct, frozen=True):
    """The result of one step."""

    what: str
    fine: bool
    found: str
    """The observation; for a problem also the remedy."""
