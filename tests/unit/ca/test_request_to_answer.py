"""From a token to a certificate, through the log, with every part but NATS and Kubernetes."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509

from shared.eventlog.memory import MemoryLogs
from shared.spiffe import SpiffeId
from shared.subjects import Streams
from shared.svid import SigningRefusedError
from tests.unit.ca.running import certificate_authority, requester
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
