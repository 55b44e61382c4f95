"""The DNS server of the cluster: serves the names of its zone, without recursion.

Unknown names, inside and outside the cluster's domain, get NXDOMAIN at once. An existing name without AAAA records gets
an empty answer, not NXDOMAIN, and so does a name that only has names below it (RFC 8020): clients query both families.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Mapping, Sequence
from typing import cast

from dnslib import QTYPE, RCODE, RR, SOA, A, DNSError, DNSHeader, DNSRecord

DOMAIN = "cluster.local"
_TTL_SECONDS = 5
_PLAIN_UDP_BYTES = 512
_IDLE_SECONDS = 10.0


class Zone:
    """Names and addresses; computes responses. No I/O."""

    def __init__(self, domain: str = DOMAIN) -> None:
        self._domain = domain
        self._names: dict[str, tuple[str, ...]] = {}
        self._above: set[str] = set()
        self._turn = 0

    def set(self, names: Mapping[str, Sequence[str]]) -> None:
        """Replace all names (fully qualified, without trailing dot)."""
        self._names = {name.lower(): tuple(addresses) for name, addresses in names.items()}
        above = {self._domain}
        for name in self._names:
            parts = name.split(".")
            above.update(".".join(parts[count:]) for count in range(1, len(parts)))
        self._above = {name for name in above if name == self._domain or name.endswith(f".{self._domain}")}

    def answer(self, query: bytes, *, limit: int | None = None) -> bytes | None:
        """Returns the response to a query, or None if it is no query. Above `limit` bytes it is truncated (TC)."""
        try:
            request = DNSRecord.parse(query)
        except (DNSError, ValueError, IndexError, struct.error, UnicodeError):
            if len(query) < 12 or query[2] & 0x80:
                return None
            refused = DNSHeader(id=int.from_bytes(query[:2], "big"), qr=1, rcode=RCODE.FORMERR)
            return bytes(DNSRecord(refused).pack())
        if request.header.qr or not request.questions:
            return None
        reply = request.reply(ra=0, aa=1)
        name = str(request.q.qname).rstrip(".").lower()
        addresses = self._names.get(name)
        if addresses is not None and request.q.qtype in (QTYPE.A, QTYPE.ANY):
            self._turn += 1
            first = self._turn % len(addresses) if addresses else 0
            for address in addresses[first:] + addresses[:first]:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=_TTL_SECONDS))
        else:
            if addresses is None and name not in self._above:
                reply.header.rcode = RCODE.NXDOMAIN
            reply.add_auth(self._authority())
        packed = bytes(reply.pack())
        if limit is not None and len(packed) > max(limit, _edns_limit(request)):
            cut = request.reply(ra=0, aa=1)
            cut.header.tc = 1
            packed = bytes(cut.pack())
        return packed

    def _authority(self) -> RR:
        start = SOA(f"ns.dns.{self._domain}", f"hostmaster.{self._domain}", (1, 60, 60, 60, _TTL_SECONDS))
        return RR(self._domain, QTYPE.SOA, rdata=start, ttl=_TTL_SECONDS)


def _edns_limit(request: DNSRecord) -> int:
    for record in request.ar:
        if record.rtype == QTYPE.OPT:
            return min(int(record.rclass), 4096)
    return 0


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is no subclass

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._zone.answer(data, limit=_PLAIN_UDP_BYTES)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


class DnsServer:
    """Serves a zone over UDP and TCP."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._datagrams: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None

    async def start(self, address: str, port: int = 53) -> int:
        """Listen on UDP and TCP. Returns the port; port 0 means any free port."""
        self._streams = await asyncio.start_server(self._converse, address, port)
        port = int(self._streams.sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._zone), local_addr=(address, port)
        )
        return port

    async def close(self) -> None:
        """Close the listeners."""
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    answer = self._zone.answer(await reader.readexactly(length))
                if answer is None:
                    break
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()
