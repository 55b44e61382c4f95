"""An edge that was taken over reads the whole log and asks as it likes: it gets only what its tokens prove."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from shared.eventlog.protocol import Draft
from shared.identity.spiffe import SpiffeId
from shared.identity.token_sealing import seal_token
from shared.records.certificate_records import (
    AuditNote,
    SigningAnswer,
    SigningRequest,
    TrustBundle,
    decode_answer,
    decode_note,
    decode_request,
    encode,
)
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.running import certificate_authority, requester
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

STREAMS = Streams()
BUYER = SpiffeId("cluster.local", "bookstore", "bookbuyer")
THIEF = SpiffeId("cluster.local", "bookstore", "bookthief")
EDGE = SpiffeId("cluster.local", "meshlog-system", "meshlog-xds-edge")


def own_csr() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    return csr.public_bytes(Encoding.DER)


class Stolen:
    """The edge, with one token that it was shown (the thief's), its own, and a request of the buyer's that it read."""

    def __init__(self, cluster: Cluster, bundle: TrustBundle, victim: SigningRequest) -> None:
        self.bundle = bundle
        self.victim = victim
        self.shown = cluster.token(account="bookthief", pod="bookthief-1")
        self.own = cluster.token("meshlog-system", "meshlog-xds-edge", "meshlog-xds-edge-1")

    def ask(self, token: str, identity: SpiffeId) -> SigningRequest:
        csr = own_csr()
        key, sealed = seal_token(self.bundle, token, csr)
        return SigningRequest("evil", "stolen", csr, key, sealed, "devcluster", str(identity))

    def with_the_victims_token(self) -> SigningRequest:
        return msgspec.structs.replace(self.victim, id="evil", requester="stolen", csr=own_csr())

    def the_victims_request_again(self) -> SigningRequest:
        return msgspec.structs.replace(self.victim, id="evil", requester="stolen")

    def without_a_token(self) -> SigningRequest:
        return self.ask("e30.e30.e30", BUYER)


ATTACKS: dict[str, tuple[Callable[[Stolen], SigningRequest], str]] = {
    "the token it was shown, for another identity": (lambda one: one.ask(one.shown, BUYER), "csr/identity"),
    "its own token, for another identity": (lambda one: one.ask(one.own, BUYER), "csr/identity"),
    "the token it was shown, for the edge's": (lambda one: one.ask(one.shown, EDGE), "csr/identity"),
    "a sealed token that it read, with a key of its own": (Stolen.with_the_victims_token, "sealing/does-not-open"),
    "a request that it read, answered to itself": (Stolen.the_victims_request_again, "csr/replayed"),
    "no token": (Stolen.without_a_token, "token/malformed"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_stolen_edge_obtains_no_identity_whose_token_it_never_saw(attack: str) -> None:
    make, code = ATTACKS[attack]
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(STREAMS.events), cluster.bookstore())
    csrs, certs = logs.stream(STREAMS.csrs), logs.stream(STREAMS.certs)
    read: list[bytes] = []
    publish = csrs.publish

    async def reading(draft: Draft) -> int:
        read.append(draft.payload)
        return await publish(draft)

    csrs.publish = reading
    async with certificate_authority(logs) as ca, requester(logs) as asking:
        bundle = await ca.bundle.wait()
        await asking.request(cluster.token(), BUYER, within=5)
        evil = make(Stolen(cluster, bundle, decode_request(read[0])))
        await publish(Draft(STREAMS.csr_subject("stolen"), encode(evil)))
        answer = await _answer(logs)
        assert (answer.refused, answer.chain) == (code, [])
        notes: list[AuditNote] = []

        async def noted() -> bool:
            record = await certs.last(STREAMS.audit_subject("refused"))
            notes[:] = [decode_note(record.payload)] if record is not None else []
            return bool(notes)

        await eventually(noted, within=5, what="the refusal in the audit trail")
    assert (notes[0].code, notes[0].requester) == (code, "stolen")
    assert notes[0].why


async def test_what_it_was_shown_it_may_use_and_that_is_all() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(STREAMS.events), cluster.bookstore())
    async with certificate_authority(logs) as ca:
        bundle = await ca.bundle.wait()
        victim = SigningRequest("", "", b"", "", b"", "", "")
        edge = Stolen(cluster, bundle, victim)
        evil = edge.ask(edge.shown, THIEF)
        await logs.stream(STREAMS.csrs).publish(Draft(STREAMS.csr_subject("stolen"), encode(evil)))
        answer = await _answer(logs)
    assert answer.spiffe_id == str(THIEF)
    assert (answer.pod, answer.token_id) == ("bookstore/bookthief-1", "jti-bookthief-1")


async def _answer(logs: MemoryLogs) -> SigningAnswer:
    async with asyncio.timeout(5):
        async for record in logs.stream(STREAMS.certs).follow(subjects=STREAMS.issued_scope("stolen")):
            return decode_answer(record.payload)
    raise AssertionError("no answer")
