"""What the log's servers and users know of each other: certificates and passwords, made new by each installation.

Made here and not by a Job in the cluster: nothing that runs there needs a right to write such Secrets. An upgrade
keeps those that are there (`cli.verbs.cluster.upgrade`).
"""

from __future__ import annotations

import datetime as dt
import secrets
import string
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.install.nats_objects import HEADLESS, SERVER_SECRET, password_variable
from deploy.install.profile import SERVICES, Manifest, Profile, metadata
from deploy.install.service_workloads import NATS_SECRET
from deploy.nats import PEOPLE

_YEARS = 10


def log_secrets(profile: Profile, now: dt.datetime | None = None) -> list[Manifest]:
    """The Secret of the servers and one of each service; empty if the log is not secured, or external."""
    if not profile.nats_secured or profile.nats_url:
        return []
    authority, certificate, key = _certificates(profile, now or dt.datetime.now(dt.UTC))
    passwords = {service: _password() for service in (*SERVICES, *PEOPLE)}
    server = {"ca.crt": authority, "tls.crt": certificate, "tls.key": key}
    server |= {password_variable(service): password for service, password in passwords.items()}
    return [
        _secret(SERVER_SECRET, server, profile),
        *(
            _secret(NATS_SECRET.format(service), {"password": password, "ca.crt": authority}, profile)
            for service, password in passwords.items()
        ),
    ]


def _secret(name: str, data: dict[str, str], profile: Profile) -> Manifest:
    head = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata(name, profile), "type": "Opaque"}
    return {**head, "stringData": data}


def _password() -> str:
    # A letter first: nats-server reads a variable as a token of its configuration, and digits as a number.
    alphabet = string.ascii_letters + string.digits
    return secrets.choice(string.ascii_letters) + "".join(secrets.choice(alphabet) for _ in range(31))


class _Certificates(NamedTuple):
    """PEM."""

    authority: str
    certificate: str
    key: str


def _certificates(profile: Profile, now: dt.datetime) -> _Certificates:
    """PEM of a CA whose key is forgotten at once, of the servers' certificate, and of its key."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = _name(f"NATS of mesh {profile.mesh_name}")
    ca_usage = _usage(signs_certificates=True)
    authority = (
        _builder(issuer, issuer, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    home = f"{profile.namespace}.svc"
    names = [f"nats.{home}", f"nats.{home}.cluster.local", f"*.{HEADLESS}.{home}.cluster.local", "localhost"]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name("nats"), issuer, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _Certificates(_pem(authority), _pem(certificate), private.decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=10))
        .not_valid_after(now + dt.timedelta(days=365 * _YEARS))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    off: dict[str, Any] = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        decipher_only=False,
        **off,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
