"""Which clients may send reviews: by network before TLS, and by the names of their certificate after it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.injector.settings import InjectorSettings
from shared.errors import BadInputError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions that the API server is known to meet."""

    networks: tuple[Network, ...] = ()
    """Networks that the API server calls from; empty for any."""
    names: tuple[str, ...] = ()
    """Names of which its certificate must contain one; empty for any. The TLS context requires the certificate."""

    def allows_source(self, source: str) -> bool:
        """Return whether a client with this IP address may connect."""
        if not self.networks:
            return True
        address = ipaddress.ip_address(source.partition("%")[0])
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(plain in network for network in self.networks)

    def allows_certificate(self, certificate: Mapping[str, Any]) -> bool:
        """Return whether a client with this certificate, in the form of `ssl`, may send requests."""
        return not self.names or bool(set(self.names) & set(certificate_names(certificate)))


def client_access(settings: InjectorSettings) -> ClientAccess:
    """Return the access of the settings. Raises `BadInputError` if they are invalid."""
    if settings.client_names and not settings.client_ca_file:
        raise BadInputError("inject/client-names", "needs client_ca_file as well", about="client_names")
    try:
        networks = tuple(ipaddress.ip_network(one, strict=False) for one in settings.client_networks)
    except ValueError as error:
        raise BadInputError("inject/networks", f"{error}; write 10.0.0.0/28", about="client_networks") from error
    return ClientAccess(networks=networks, names=settings.client_names)


def certificate_names(certificate: Mapping[str, Any]) -> Sequence[str]:
    """Return the common name and DNS names of a peer's certificate, in the form of `ssl`."""
    subject = (pair for part in certificate.get("subject", ()) for pair in part)
    return [
        *(value for key, value in subject if key == "commonName"),
        *(value for key, value in certificate.get("subjectAltName", ()) if key == "DNS"),
    ]
