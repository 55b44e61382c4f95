"""When to renew: at two thirds of the lifetime, spread, so that a fleet that started together does not renew together.

Pure, and measured from the arrival of the certificate: clocks of requester and CA need not agree.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.timing.backoff import Backoff

RENEW_AT = 2 / 3
SPREAD = 0.1
"""Renewal falls evenly into `RENEW_AT` ± this part of the lifetime."""
FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0


def renewal_delay(lifetime: float, random: Callable[[], float]) -> float:
    """Seconds from arrival to renewal of a certificate that lives `lifetime` seconds; `random` gives [0, 1)."""
    return lifetime * (RENEW_AT - SPREAD + 2 * SPREAD * random())


def retry_delay(attempt: int, lifetime: float, random: Callable[[], float]) -> float:
    """Seconds before try number `attempt` + 1 after a failure (the first is 1): doubling, jittered.

    Never above a twelfth of the lifetime, so that a short-lived certificate gets several tries before it expires.
    """
    longest = min(LONGEST_RETRY, max(FIRST_RETRY, lifetime / 12))
    return Backoff(FIRST_RETRY, longest, jitter=(0.5, 1.0)).delay(attempt - 1, random)
