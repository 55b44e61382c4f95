"""`meshlog certificate list|show|audit`: what the log knows of certificates, asked of a CA on a log in memory."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509

from cli.certificates import table
from cli.certificates.roots import CertificateClient, MeshRoot
from shared.errors import BadInputError
from shared.eventlog.protocol import Draft
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid
from shared.identity.svid_requester import SigningRefusedError
from shared.records.proxy_status import ProxyStatus, encode_status
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.running import certificate_authority, requester
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

STREAMS = Streams()
BUYER = SpiffeId("cluster.local", "bookstore", "bookbuyer")


class Roots(CertificateClient):
    """A desk without an API: the MeshRootCertificates are given."""

    def __init__(self, logs: MemoryLogs, *held: MeshRoot) -> None:
        super().__init__(None, logs.stream(STREAMS.certs), logs.stream(STREAMS.status), STREAMS)  # type: ignore[arg-type]
        self._held = {root.name: root for root in held}

    async def roots(self) -> dict[str, MeshRoot]:
        return self._held

    async def pods(self) -> set[str]:
        return {"a", "b", "d"}


async def issued(logs: MemoryLogs, count: int = 1) -> list[IssuedSvid]:
    """Certificates for the buyer, and one refusal that is in the audit trail."""
    cluster = Cluster()
    await write(logs.stream(STREAMS.events), cluster.bookstore())
    async with certificate_authority(logs), requester(logs) as asking:
        found = [await asking.request(cluster.token(), BUYER, within=5) for _ in range(count)]
        with pytest.raises(SigningRefusedError):
            await asking.request(cluster.token(account="bookthief", pod="bookthief-1"), BUYER, within=5)

        async def noted() -> bool:
            return await logs.stream(STREAMS.certs).last(STREAMS.audit_subject("refused")) is not None

        await eventually(noted, within=5, what="the refusal is in the trail")
    return found


async def test_show_gives_the_newest_certificate_of_a_pod_and_any_by_its_serial() -> None:
    logs = MemoryLogs()
    first, second = await issued(logs, 2)
    desk = Roots(logs)
    newest = await table.one(desk, "bookstore/bookbuyer-1")
    assert newest["serial"] == second.serial
    assert newest["identity"] == str(BUYER)
    assert (newest["token"], newest["root"], newest["dns names"]) == ("jti-bookbuyer-1", "default", "none")
    assert x509.load_pem_x509_certificate(newest["certificate"].encode()).serial_number == int(second.serial, 16)
    spelled = ":".join(first.serial[at : at + 2] for at in range(0, len(first.serial), 2)).upper()
    for serial in (first.serial, spelled):
        assert (await table.one(desk, serial))["serial"] == first.serial
    assert not [value for value in newest.values() if "PRIVATE" in str(value)]


@pytest.mark.parametrize("which", ["bookstore/nobody", "bookstore/bookthief-1", "abc", "", "bookbuyer-1"])
async def test_show_of_what_was_never_issued_is_refused_in_a_sentence(which: str) -> None:
    logs = MemoryLogs()
    await issued(logs)
    with pytest.raises(BadInputError, match="holds no certificate of this pod or serial"):
        await table.one(Roots(logs), which)


async def test_audit_says_who_got_what_on_whose_token_and_who_was_refused_and_why() -> None:
    logs = MemoryLogs()
    (svid,) = await issued(logs)
    await logs.stream(STREAMS.certs).publish(Draft(STREAMS.issued_subject("edge-1", "x"), b"{"))
    rows = await table.audit(Roots(logs), 10)
    (got,) = (row for row in rows if row["what"] == "issued")
    assert (got["serial"], got["identity"], got["pod"]) == (svid.serial, str(BUYER), "bookstore/bookbuyer-1")
    assert (got["token"], got["requester"]) == ("jti-bookbuyer-1", "edge-1")
    (refused,) = (row for row in rows if row["what"] == "refused")
    assert (refused["code"], refused["asked_for"]) == ("csr/identity", str(BUYER))
    assert "bookthief" in refused["why"]
    assert {row["what"] for row in rows} == {"issued", "refused", "rotation"}, "what no CA wrote is passed over"
    assert await table.audit(Roots(logs), 1) == rows[-1:]


async def test_list_shows_the_roots_and_what_each_proxy_holds() -> None:
    logs = MemoryLogs()
    await issued(logs)
    held: dict[str, Any] = {"cluster": "c", "namespace": "bookstore", "service_account": "bookbuyer", "edge": "e"}
    serial = (await Roots(logs).bundle()).serial
    for pod, connected, bundle in (("a", True, serial), ("b", False, 1), ("c", True, 0)):
        status = ProxyStatus(
            pod=pod, uid=pod, connected=connected, since=0, certificate_bundle=bundle, certificate_until=bundle, **held
        )
        await logs.stream(STREAMS.status).publish(
            Draft(STREAMS.status_subject("c", "bookstore", pod), encode_status(status))
        )
    gone = ProxyStatus(pod="z", uid="z", connected=False, since=0, certificate_until=serial, **held)
    await logs.stream(STREAMS.status).publish(Draft(STREAMS.status_subject("c", "bookstore", "z"), encode_status(gone)))
    # What a proxy says of itself may be nonsense; what no edge wrote is passed over.
    liar = ProxyStatus(pod="d", uid="d", connected=False, since=0, certificate_until=999_999_999_999, **held)
    for payload in (encode_status(liar), b'{"error": "what a server answers"}', b"\xff"):
        pod = "d" if payload.startswith(b'{"cluster') else "e"
        await logs.stream(STREAMS.status).publish(Draft(STREAMS.status_subject("c", "bookstore", pod), payload))
    passive = MeshRoot("root-2", "passive", "cluster.local", {"builtin": {}})
    rows = await table.listing(Roots(logs, passive))
    assert [(row["name"], row["state"]) for row in rows if row["what"] == "root"] == [
        ("default", "signs"),
        ("root-2", "unused"),
    ]
    proxies = [(row["name"], row["state"], row["root"]) for row in rows if row["what"] == "proxy"]
    assert proxies == [
        ("bookstore/a", "connected", "the signing one"),
        ("bookstore/b", "away", "an older one"),
        ("bookstore/c", "connected", "none"),
        ("bookstore/d", "away", "none"),
    ]
    assert rows[-1]["expires"] == "999999999999 (no time)"
