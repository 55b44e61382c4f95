"""From a token to a certificate, through the log, with every part but NATS and Kubernetes."""

from __future__ import annotations

import asyncio
import base64
import logging
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft
from shared.identity.spiffe import SpiffeId
from shared.identity.svid_requester import SigningRefusedError
from shared.records.certificate_records import SigningRequest, encode
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.running import certificate_authority, new_authority, requester
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

BUYER = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookbuyer")
EDGE = SpiffeId(trust_domain="cluster.local", namespace="meshlog-system", service_account="meshlog-xds-edge")


async def test_a_workload_gets_a_certificate_for_the_identity_of_its_token() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(Streams().events), cluster.bookstore())
    async with certificate_authority(logs), requester(logs) as asking:
        svid = await asking.request(cluster.token(), BUYER, within=5)
    leaf = x509.load_pem_x509_certificate(svid.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.UniformResourceIdentifier(str(BUYER))]
    assert names.critical
    assert svid.lifetime == pytest.approx(86400, abs=2)


async def test_another_identity_than_that_of_the_token_is_refused() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(Streams().events), cluster.bookstore())
    async with certificate_authority(logs), requester(logs) as asking:
        with pytest.raises(SigningRefusedError) as refused:
            await asking.request(cluster.token(account="bookthief", pod="bookthief-1"), BUYER, within=5)
    assert refused.value.code == "csr/identity"


async def test_a_control_plane_service_gets_its_dns_names() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(Streams().events), cluster.bookstore())
    token = cluster.token("meshlog-system", "meshlog-xds-edge", "meshlog-xds-edge-1")
    async with certificate_authority(logs), requester(logs) as asking:
        svid = await asking.request(token, EDGE, within=5)
    leaf = x509.load_pem_x509_certificate(svid.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "meshlog-xds-edge.meshlog-system.svc",
        "meshlog-xds-edge.meshlog-system.svc.cluster.local",
    ]


async def test_a_pod_that_the_log_learns_of_later_gets_its_certificate_then() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    events = cluster.bookstore()
    log = logs.stream(Streams().events)
    await write(log, events[:6])
    async with certificate_authority(logs), requester(logs) as asking:
        asked = asyncio.ensure_future(asking.request(cluster.token(), BUYER, within=10))
        await eventually(lambda: logs.stream(Streams().csrs).last(">"), within=5, what="the request is queued")
        assert not asked.done()
        await write(log, events[6:])
        assert (await asked).spiffe_id == BUYER


async def test_a_ca_that_ends_before_it_answers_is_followed_by_one_that_does() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    authority = new_authority()
    await write(logs.stream(Streams().events), cluster.bookstore())
    async with requester(logs) as asking:
        async with certificate_authority(logs, authority=authority):
            await asking.request(cluster.token(), BUYER, within=5)
        logs.stream(Streams().certs).down()
        asked = asyncio.ensure_future(asking.request(cluster.token(), BUYER, within=20))
        await eventually(lambda: logs.stream(Streams().csrs).last(">"), within=5, what="the request is queued")
        async with certificate_authority(logs, authority=authority):
            logs.stream(Streams().certs).up()
            assert (await asked).spiffe_id == BUYER


async def test_a_redelivered_request_is_answered_once_even_when_the_log_has_forgotten_its_id() -> None:
    moment = [time.time_ns()]
    logs, cluster = MemoryLogs(clock=lambda: moment[0]), Cluster()
    certs, csrs = logs.stream(Streams().certs), logs.stream(Streams().csrs)
    await write(logs.stream(Streams().events), cluster.bookstore())
    taken: list[bytes] = []
    publish = csrs.publish

    async def noticing(draft: Draft) -> int:
        taken.append(draft.payload)
        return await publish(draft)

    csrs.publish = noticing
    async with certificate_authority(logs), requester(logs) as asking:
        await asking.request(cluster.token(), BUYER, within=5)
        moment[0] += 300 * 10**9
        await publish(Draft(subject=Streams().csr_subject("edge-1"), payload=taken[0]))
        await eventually(lambda: _is_empty(csrs), within=5, what="the redelivered request is done")
    assert len([record async for record in certs.read(subjects=Streams().issued_scope("edge-1"))]) == 1


async def test_nonsense_in_the_queue_is_dropped_and_the_next_request_is_served() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    csrs = logs.stream(Streams().csrs)
    await write(logs.stream(Streams().events), cluster.bookstore())
    for payload in (b"", b"{}", b"\xff" * 100, b"[" * 5000):
        await csrs.publish(Draft(subject=Streams().csr_subject("edge-1"), payload=payload))
    async with certificate_authority(logs), requester(logs) as asking:
        await asking.request(cluster.token(), BUYER, within=5)
        await eventually(lambda: _is_empty(csrs), within=5, what="nothing is left in the queue")


async def test_a_request_under_the_subject_of_another_requester_is_dropped() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    csrs, certs = logs.stream(Streams().csrs), logs.stream(Streams().certs)
    await write(logs.stream(Streams().events), cluster.bookstore())
    request = SigningRequest(
        id="1", requester="edge-2", csr=b"", sealing_key="", sealed_token=b"", cluster="", spiffe_id=""
    )
    await csrs.publish(Draft(subject=Streams().csr_subject("edge-1"), payload=encode(request)))
    async with certificate_authority(logs):
        await eventually(lambda: _is_empty(csrs), within=5, what="the request is dropped")
    assert await certs.last(Streams().issued_scope("edge-2")) is None


async def test_no_secret_is_in_any_stream_or_log_line(caplog: pytest.LogCaptureFixture) -> None:
    logs, cluster, authority = MemoryLogs(), Cluster(), new_authority()
    await write(logs.stream(Streams().events), cluster.bookstore())
    good, thief, bad = cluster.token(), cluster.token(account="bookthief", pod="bookthief-1"), cluster.token() + "x"
    queued: list[bytes] = []
    publish = logs.stream(Streams().csrs).publish

    async def noticing(draft: Draft) -> int:
        queued.append(draft.payload)
        return await publish(draft)

    logs.stream(Streams().csrs).publish = noticing
    with caplog.at_level(logging.DEBUG):
        async with certificate_authority(logs, authority=authority), requester(logs) as asking:
            svid = await asking.request(good, BUYER, within=5)
            for token in (thief, bad):
                with pytest.raises(SigningRefusedError):
                    await asking.request(token, BUYER, within=5)
    seen = [record.payload for name in ("EVENTS", "CERTS") async for record in logs.stream(f"MESH_{name}").read()]
    everything = b"\n".join([*queued, *seen, caplog.text.encode(), repr(svid).encode(), repr(authority).encode()])
    everything += b"\n".join(repr(vars(record)).encode() for record in caplog.records)
    secrets = [*(part.encode() for token in (good, thief, bad) for part in token.split(".")[1:])]
    scalar = load_pem_private_key(svid.key_pem, None)
    assert isinstance(scalar, EllipticCurvePrivateKey)
    secrets += [*svid.key_pem.splitlines()[1:-1], scalar.private_numbers().private_value.to_bytes(32, "big")]
    secrets += [authority.key.private_numbers().private_value.to_bytes(32, "big"), *authority.sealing_keys]
    secrets += [base64.b64encode(key)[:40] for key in authority.sealing_keys]
    assert len(queued) == 3
    for secret in secrets:
        assert secret not in everything
    assert b"PRIVATE KEY" not in everything


async def _is_empty(log: MemoryLog) -> bool:
    first, last = await log.bounds()
    return first > last
