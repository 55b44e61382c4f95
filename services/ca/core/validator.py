"""Checks each certificate before it leaves the CA, whichever provider signed it.

A provider may be an external CA with its own defaults. If its certificate differs from the template in any point that a
peer relies on, the CA does not issue it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from services.ca.core.template import LeafTemplate
from shared.identity.svid_validator import InvalidSvidError, validate_svid

_ROUNDING = 1
"""Seconds by which a provider may round dates."""


def check_issued(
    chain: Sequence[x509.Certificate], template: LeafTemplate, roots: Sequence[x509.Certificate], *, now: float
) -> None:
    """Raise `InvalidSvidError` unless the chain matches the template and leads to one of the roots."""
    validate_svid(
        chain,
        roots,
        now=now,
        expected=template.identity,
        public_key=template.spki,
        dns_names=template.dns_names,
    )
    leaf = chain[0]
    if leaf.not_valid_after_utc.timestamp() > template.not_after + _ROUNDING:
        raise InvalidSvidError("svid/lifetime", "must not live longer than was asked for", about="X.509-SVID")
    if leaf.serial_number.bit_length() < 64:
        raise InvalidSvidError("svid/serial", "must have a serial of 64 random bits or more", about="X.509-SVID")
