"""The zone answers at once and truthfully, whatever it is sent."""

from __future__ import annotations

import asyncio

import pytest
from dnslib import QTYPE, RCODE, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from deploy.devcluster.node.dns import DnsServer, Zone


def _zone() -> Zone:
    zone = Zone()
    zone.set({"web.shop.svc.cluster.local": ["10.96.0.7"], "db.shop.svc.cluster.local": ["10.244.0.2", "10.244.0.3"]})
    return zone


def _ask(zone: Zone, name: str, kind: str = "A", limit: int | None = None) -> DNSRecord:
    answer = zone.answer(bytes(DNSRecord.question(name, kind).pack()), limit=limit)
    assert answer is not None
    return DNSRecord.parse(answer)


def test_a_known_name_has_its_addresses_in_any_case() -> None:
    for name in ("web.shop.svc.cluster.local", "WEB.Shop.svc.cluster.LOCAL."):
        assert [str(record.rdata) for record in _ask(_zone(), name).rr] == ["10.96.0.7"]


def test_several_addresses_take_turns_at_the_head() -> None:
    zone = _zone()
    heads = {str(_ask(zone, "db.shop.svc.cluster.local").rr[0].rdata) for _ in range(2)}
    assert heads == {"10.244.0.2", "10.244.0.3"}


@pytest.mark.parametrize("name", ["web.shop.svc.cluster.local", "shop.svc.cluster.local", "cluster.local"])
def test_a_name_without_an_ipv6_address_exists_all_the_same(name: str) -> None:
    reply = _ask(_zone(), name, "AAAA")
    assert (reply.header.rcode, reply.rr) == (RCODE.NOERROR, [])


@pytest.mark.parametrize("name", ["nope.shop.svc.cluster.local", "example.com", "local", "xweb.shop.svc.cluster.local"])
def test_an_unknown_name_does_not_exist(name: str) -> None:
    assert _ask(_zone(), name).header.rcode == RCODE.NXDOMAIN


def test_names_that_are_set_replace_those_before() -> None:
    zone = _zone()
    zone.set({"new.shop.svc.cluster.local": ["10.96.0.9"]})
    assert _ask(zone, "web.shop.svc.cluster.local").header.rcode == RCODE.NXDOMAIN
    assert len(_ask(zone, "new.shop.svc.cluster.local").rr) == 1


def test_an_answer_too_long_for_a_datagram_is_cut_with_its_question_kept() -> None:
    zone = Zone()
    zone.set({"many.svc.cluster.local": [f"10.244.1.{number}" for number in range(200)]})
    reply = _ask(zone, "many.svc.cluster.local", limit=512)
    assert reply.header.tc == 1
    assert str(reply.q.qname) == "many.svc.cluster.local."
    assert len(_ask(zone, "many.svc.cluster.local").rr) == 200


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(query: bytes) -> None:
    _zone().answer(query, limit=512)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_no_damage_to_a_real_query_makes_it_fail(noise: bytes, at: int) -> None:
    query = bytes(DNSRecord.question("web.shop.svc.cluster.local").pack())
    _zone().answer(query[:at] + noise + query[at + len(noise) :])


async def test_udp_and_tcp_answer_alike() -> None:
    server = DnsServer(_zone())
    port = await server.start("127.0.0.1", 0)
    try:
        query = DNSRecord.question("web.shop.svc.cluster.local", QTYPE[1])
        for tcp in (False, True):
            answer = await asyncio.to_thread(query.send, "127.0.0.1", port, tcp=tcp, timeout=5)
            assert str(DNSRecord.parse(answer).rr[0].rdata) == "10.96.0.7"
    finally:
        await server.close()
