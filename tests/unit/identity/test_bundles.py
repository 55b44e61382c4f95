"""A valid trust bundle and one mutation a row: nobody trusts by what no CA can have published."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ca.core.template import LeafTemplate, self_signed_root, sign_leaf
from services.ca.keys.authority import new_serial
from shared.eventlog.protocol import Draft
from shared.identity.bundle import BundleFollower
from shared.identity.bundle_rules import InvalidBundleError, check_bundle
from shared.identity.spiffe import SpiffeId
from shared.identity.token_sealing import Opener, generate_sealing_key
from shared.records.certificate_records import (
    CorruptMessageError,
    SealingKey,
    TrustBundle,
    TrustedRoot,
    decode_bundle,
    encode,
)
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.unit.ca.running import tasks
from tests.waiting import eventually

NOW = int(time.time())


def root() -> tuple[str, x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = self_signed_root("cluster.local", key, now=NOW, serial=new_serial())
    return made.public_bytes(Encoding.PEM).decode(), made, key


NOTHING: list[Any] = []
OLD, ISSUER, ISSUER_KEY = root()
NEW, _, _ = root()
SEALING = Opener([generate_sealing_key(), generate_sealing_key()]).public_keys
VALID = TrustBundle(
    trust_domain="cluster.local",
    serial=9,
    roots=[NEW, OLD],
    sealing_keys=SEALING,
    members=[TrustedRoot("root-2", "cluster.local", 7), TrustedRoot("default", "example.org", 3)],
    signing_since=8,
    key_type="RSA-3072",
)


def leaf() -> str:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    identity = SpiffeId("cluster.local", "bookstore", "bookbuyer")
    template = LeafTemplate(identity, key, spki, (), NOW, NOW + 60, new_serial())
    return sign_leaf(template, ISSUER, ISSUER_KEY).public_bytes(Encoding.PEM).decode()


def test_a_valid_bundle_is_taken_with_and_without_its_members() -> None:
    check_bundle(VALID)
    check_bundle(msgspec.structs.replace(VALID, members=[], signing_since=0))
    check_bundle(decode_bundle(encode(VALID)))


def member(place: int, **changes: Any) -> Callable[[], dict[str, Any]]:
    def made() -> dict[str, Any]:
        members = list(VALID.members)
        members[place] = msgspec.structs.replace(members[place], **changes)
        return {"members": members}

    return made


@pytest.mark.parametrize(
    ("mutation", "code"),
    [
        (lambda: {"serial": 0}, "bundle/serial"),
        (lambda: {"serial": -9, "signing_since": -9}, "bundle/serial"),
        (lambda: {"signing_since": 10}, "bundle/serial"),
        (lambda: {"signing_since": -1}, "bundle/serial"),
        (lambda: {"roots": NOTHING, "members": NOTHING}, "bundle/roots"),
        (lambda: {"roots": [NEW, NEW]}, "bundle/roots"),
        (lambda: {"roots": [root()[0] for _ in range(33)], "members": []}, "bundle/roots"),
        (lambda: {"roots": [NEW, ""]}, "bundle/root"),
        (lambda: {"roots": [NEW, "ROOT"]}, "bundle/root"),
        (lambda: {"roots": [NEW, OLD[:-40]]}, "bundle/root"),
        (lambda: {"roots": [NEW, OLD + root()[0]]}, "bundle/root"),
        (lambda: {"roots": [NEW, leaf()]}, "bundle/root"),
        (lambda: {"roots": [NEW]}, "bundle/members"),
        (member(1, name="root-2"), "bundle/members"),
        (member(1, name=""), "bundle/members"),
        (member(1, since=10), "bundle/members"),
        (member(1, since=0), "bundle/members"),
        (member(0, trust_domain="example.org"), "bundle/trust-domain"),
        (member(1, trust_domain="Not/One"), "bundle/trust-domain"),
        (lambda: {"trust_domain": "", "members": NOTHING}, "bundle/trust-domain"),
        (lambda: {"trust_domain": "a/ns/b", "members": NOTHING}, "bundle/trust-domain"),
        (lambda: {"sealing_keys": [SealingKey(SEALING[0].id, bytes(31))]}, "bundle/sealing-key"),
        (lambda: {"sealing_keys": [SealingKey(SEALING[0].id, SEALING[1].public)]}, "bundle/sealing-key"),
        (lambda: {"sealing_keys": [*SEALING, SealingKey("", SEALING[1].public)]}, "bundle/sealing-key"),
        (lambda: {"key_type": "RSA-1024"}, "bundle/key-type"),
        (lambda: {"key_type": ""}, "bundle/key-type"),
    ],
)
def test_one_mutation_is_refused(mutation: Callable[[], dict[str, Any]], code: str) -> None:
    with pytest.raises(InvalidBundleError) as refused:
        check_bundle(msgspec.structs.replace(VALID, **mutation()))
    assert refused.value.code == code


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # the library accepts and warns, so the bundle is valid
@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(encode(VALID)) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_judged_not_crashed_on(position: int, value: int) -> None:
    changed = bytearray(encode(VALID))
    changed[position] = value
    with contextlib.suppress(CorruptMessageError, InvalidBundleError):
        taken = decode_bundle(bytes(changed))
        check_bundle(taken)
        # What is taken still names roots that can be read: nobody is left without any.
        assert x509.load_pem_x509_certificate(taken.roots[0].encode())


async def test_followers_keep_the_last_good_bundle(caplog: pytest.LogCaptureFixture) -> None:
    """A bundle that would take everybody's trust away is skipped, and the next good one is taken."""
    certs, subject = MemoryLogs().stream(Streams().certs), Streams().bundle_subject("cluster.local")
    bad = msgspec.structs.replace(VALID, serial=10, roots=[], members=[])
    good = msgspec.structs.replace(VALID, serial=11)
    follower = BundleFollower(certs, streams=Streams(), trust_domain="cluster.local")
    await write_chained(certs, Draft(subject, encode(VALID)))
    async with tasks(follower.run()), asyncio.timeout(5):
        assert await follower.wait() == VALID
        await write_chained(certs, Draft(subject, encode(bad)))
        await eventually(lambda: "record 2 is skipped" in caplog.text, within=5, what="the bad one was seen")
        assert follower.current == VALID
        await write_chained(certs, Draft(subject, encode(good)))
        assert await follower.at_least(11) == good
