"""A valid X.509-SVID and one mutation a row: what TLS libraries let through, and we do not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.identity.spiffe import SpiffeId
from shared.identity.svid_validator import InvalidSvidError, validate_svid

NOW = datetime(2025, 6, 1, tzinfo=UTC)
BUYER = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookbuyer")
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def usage(*, sign: bool = True, certificates: bool = False, crl: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=crl,
        encipher_only=False,
        decipher_only=False,
    )


class Mould:
    """A certificate before it is signed; tests change one attribute."""

    def __init__(self, subject: str = "", *, ca: bool = False, days: int = 1) -> None:
        self.subject = subject
        self.key: Key = ec.generate_private_key(ec.SECP256R1())
        self.uris = [] if ca else [str(BUYER)]
        self.others: list[x509.GeneralName] = []
        self.san_critical = not subject
        self.constraints: x509.BasicConstraints | None = x509.BasicConstraints(ca=ca, path_length=None)
        self.usage: x509.KeyUsage | None = usage(sign=not ca, certificates=ca, crl=ca)
        self.usage_critical = True
        self.extended: tuple[x509.ObjectIdentifier, ...] = () if ca else BOTH
        self.start, self.end = NOW - timedelta(minutes=2), NOW + timedelta(days=days)
        self.extra: list[tuple[x509.ExtensionType, bool]] = []
        self.hash: SHA256 | SHA384 = SHA256()

    def sign(self, issuer: Mould) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.subject))
            .issuer_name(name(issuer.subject))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        names = [*map(x509.UniformResourceIdentifier, self.uris), *self.others]
        extensions: list[tuple[Any, bool]] = list(self.extra)
        if names:
            extensions.append((x509.SubjectAlternativeName(names), self.san_critical))
        if self.constraints:
            extensions.append((self.constraints, True))
        if self.usage:
            extensions.append((self.usage, self.usage_critical))
        if self.extended:
            extensions.append((x509.ExtendedKeyUsage(self.extended), False))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(issuer.key, self.hash)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])


def check(leaf: Mould, issuers: list[Mould], **wanted: Any) -> SpiffeId:
    """Validate a chain of leaf and intermediates whose last issuer is the root."""
    moulds = [leaf, *issuers]
    chain = [mould.sign(issuer) for mould, issuer in zip(moulds, issuers, strict=False)]
    root = issuers[-1].sign(issuers[-1])
    asked: dict[str, Any] = {"now": NOW.timestamp(), "expected": BUYER, **wanted}
    return validate_svid(chain, [root], **asked)


def test_a_valid_svid_passes_directly_and_through_an_intermediate() -> None:
    root, middle = Mould("root", ca=True, days=9), Mould("middle", ca=True, days=5)
    assert check(Mould(), [root]) == BUYER
    assert check(Mould(), [middle, root]) == BUYER


def change(attribute: str, value: Any) -> Callable[[Mould], None]:
    return lambda mould: setattr(mould, attribute, value)


@pytest.mark.parametrize(
    ("mutate", "code"),
    [
        (change("uris", []), "svid/uri-san"),
        (change("uris", [str(BUYER), "spiffe://cluster.local/ns/bookstore/sa/bookthief"]), "svid/uri-san"),
        (change("uris", [str(BUYER), str(BUYER)]), "svid/uri-san"),
        (change("uris", ["spiffe://cluster.local/ns/bookstore/sa/bookthief"]), "svid/identity"),
        (change("uris", ["spiffe://elsewhere/ns/bookstore/sa/bookbuyer"]), "svid/identity"),
        (change("uris", ["spiffe://cluster.local/ns/x/../bookstore/sa/bookbuyer"]), "svid/spiffe-id"),
        (change("uris", ["spiffe://cluster.local/ns/bookstore/sa/book%62uyer"]), "svid/spiffe-id"),
        (change("uris", ["spiffe://cluster.local/ns/bookstore/sa/bookbuyer/"]), "svid/spiffe-id"),
        (change("uris", ["spiffe://CLUSTER.local/ns/bookstore/sa/bookbuyer"]), "svid/spiffe-id"),
        (change("uris", ["https://cluster.local/ns/bookstore/sa/bookbuyer"]), "svid/spiffe-id"),
        (change("uris", ["spiffe://cluster.local"]), "svid/spiffe-id"),
        (change("others", [x509.RFC822Name("a@b.c")]), "svid/other-san"),
        (change("others", [x509.DNSName("bookstore.svc")]), "svid/dns-san"),
        (change("san_critical", value=False), "svid/san-not-critical"),
        (change("constraints", x509.BasicConstraints(ca=True, path_length=0)), "svid/ca"),
        (change("usage", None), "svid/key-usage"),
        (change("usage", usage(sign=False, crl=False)), "svid/key-usage"),
        (change("usage", usage(certificates=True)), "svid/key-usage"),
        (change("usage", usage(crl=True)), "svid/key-usage"),
        (change("usage_critical", value=False), "svid/key-usage"),
        (change("extended", ()), "svid/extended-key-usage"),
        (change("extended", BOTH[:1]), "svid/extended-key-usage"),
        (change("extended", BOTH[1:]), "svid/extended-key-usage"),
        (change("key", ec.generate_private_key(ec.SECP521R1())), "svid/key"),
        (change("key", rsa.generate_private_key(65537, 1024)), "svid/key"),  # noqa: S505 (that is the mutation)
        (change("start", NOW + timedelta(seconds=1)), "svid/not-yet-valid"),
        (change("end", NOW - timedelta(seconds=1)), "svid/expired"),
        (change("end", NOW + timedelta(days=10)), "svid/outlives-issuer"),
        (
            change("extra", [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]),
            "svid/critical-extension",
        ),
    ],
)
def test_one_mutation_of_the_leaf_is_refused(mutate: Callable[[Mould], None], code: str) -> None:
    leaf = Mould()
    mutate(leaf)
    with pytest.raises(InvalidSvidError) as refused:
        check(leaf, [Mould("root", ca=True, days=9)], dns_names=())
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("mutate", "code"),
    [
        (change("constraints", None), "svid/issuer"),
        (change("constraints", x509.BasicConstraints(ca=False, path_length=None)), "svid/issuer"),
        (change("usage", None), "svid/issuer"),
        (change("usage", usage(crl=True)), "svid/issuer"),
        (change("end", NOW - timedelta(seconds=1)), "svid/expired"),
        (change("start", NOW + timedelta(seconds=1)), "svid/not-yet-valid"),
        (change("end", NOW + timedelta(hours=1)), "svid/outlives-issuer"),
    ],
)
@pytest.mark.parametrize("place", ["intermediate", "root"])
def test_one_mutation_of_an_issuer_is_refused(place: str, mutate: Callable[[Mould], None], code: str) -> None:
    root, middle = Mould("root", ca=True, days=9), Mould("middle", ca=True, days=5)
    mutate(middle if place == "intermediate" else root)
    with pytest.raises(InvalidSvidError) as refused:
        check(Mould(), [middle, root])
    assert refused.value.code == code


def test_an_issuer_may_limit_how_many_are_below_it() -> None:
    root, middle = Mould("root", ca=True, days=9), Mould("middle", ca=True, days=5)
    root.constraints = x509.BasicConstraints(ca=True, path_length=0)
    assert check(Mould(), [root]) == BUYER
    with pytest.raises(InvalidSvidError) as refused:
        check(Mould(), [middle, root])
    assert refused.value.code == "svid/issuer"


def test_a_stranger_with_the_name_of_our_root_is_not_our_root() -> None:
    leaf, root, stranger = Mould(), Mould("root", ca=True, days=9), Mould("root", ca=True, days=9)
    chain = [leaf.sign(stranger)]
    for roots in ([root.sign(root)], []):
        with pytest.raises(InvalidSvidError) as refused:
            validate_svid(chain, roots, now=NOW.timestamp())
        assert refused.value.code == "svid/path"


def test_a_chain_out_of_order_is_refused() -> None:
    root, one, two = Mould("root", ca=True, days=9), Mould("one", ca=True, days=5), Mould("two", ca=True, days=5)
    leaf = Mould().sign(two)
    with pytest.raises(InvalidSvidError) as refused:
        validate_svid([leaf, one.sign(root)], [root.sign(root)], now=NOW.timestamp())
    assert refused.value.code == "svid/path"


def test_an_empty_or_endless_chain_is_refused() -> None:
    root = Mould("root", ca=True, days=9)
    leaf = Mould().sign(root)
    for chain in ([], [leaf] * 9):
        with pytest.raises(InvalidSvidError) as refused:
            validate_svid(chain, [root.sign(root)], now=NOW.timestamp())
        assert refused.value.code == "svid/chain"


@pytest.mark.parametrize("place", ["leaf", "root"])
def test_a_name_of_a_type_that_it_may_not_have_is_refused_as_unreadable(place: str) -> None:
    """The library reads names only when they are looked at, and says TypeError then (found by `make fuzz-ca`)."""
    plain, odd = Mould("plain", ca=True, days=9), Mould("odd", ca=True, days=9)
    odd.uris, odd.extended = [str(BUYER)], BOTH
    odd.san_critical = False
    der = odd.sign(odd).public_bytes(Encoding.DER)
    # The common name as a BIT STRING: no such thing can be built.
    assert der.count(b"\x0c\x03odd") == 2
    unreadable = x509.load_der_x509_certificate(der.replace(b"\x0c\x03odd", b"\x03\x03\x00\x00\x00"))
    chain, root = (unreadable, plain.sign(plain)) if place == "leaf" else (Mould().sign(odd), unreadable)
    with pytest.raises(InvalidSvidError) as refused:
        validate_svid([chain], [root], now=NOW.timestamp())
    assert refused.value.code in {"svid/malformed", "svid/path"}


def test_the_key_must_be_the_one_that_was_asked_for() -> None:
    leaf, other = Mould(), Mould()
    root = Mould("root", ca=True, days=9)
    spki = [m.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for m in (leaf, other)]
    assert check(leaf, [root], public_key=spki[0]) == BUYER
    with pytest.raises(InvalidSvidError) as refused:
        check(leaf, [root], public_key=spki[1])
    assert refused.value.code == "svid/other-key"


def test_a_foreign_trust_domain_is_refused_without_an_expected_identity() -> None:
    with pytest.raises(InvalidSvidError) as refused:
        check(Mould(), [Mould("root", ca=True, days=9)], expected=None, trust_domain="elsewhere")
    assert refused.value.code == "svid/trust-domain"


def test_clocks_may_differ_by_the_skew_that_is_allowed() -> None:
    leaf, root = Mould(), Mould("root", ca=True, days=9)
    early = (leaf.start - timedelta(minutes=3)).timestamp()
    assert check(leaf, [root], now=early, skew=300) == BUYER
    with pytest.raises(InvalidSvidError):
        check(leaf, [root], now=early)
