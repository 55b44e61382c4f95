"""A proxy of the swarm: subscribes, accepts and acknowledges as Envoy does, and keeps what it holds over reconnects."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter

import msgspec

from benchmarks.swarm.http2 import GrpcStream
from benchmarks.swarm.wire import (
    CDS,
    DELTA_PATH,
    EDS,
    LDS,
    RDS,
    SDS,
    Response,
    read_response,
    references,
    write_request,
)
from shared.timing.backoff import Backoff

_BACKOFF = Backoff(first=0.1, longest=1.0, jitter=(0.0, 1.0))
"""As in the bootstrap of the injector's sidecars."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The server under load."""

    host: str
    port: int
    authority: str = ""
    """Name in the certificate and in `:authority`; empty: the host."""
    roots: str = ""
    """File of the roots that its certificate is checked against; empty: no TLS."""
    secrets: tuple[str, ...] = ()
    """SDS names to ask for."""


class Tally:
    """What all proxies of one process saw since the last mark."""

    def __init__(self) -> None:
        self.acks = 0
        self.resources = 0
        self.bytes = 0
        self.opened = 0
        self.ended = 0
        self.failed = 0
        self.answers: dict[int, int] = {}
        """Proxy → nanoseconds since 1970 of its last ACK since the mark."""
        self.first: dict[int, int] = {}
        """Proxy → nanoseconds since 1970 of its first ACK since the mark."""
        self.types: Counter[str] = Counter()


class SwarmProxy:
    """One proxy."""

    def __init__(self, number: int, *, node: str, token: str, target: Target, tls: ssl.SSLContext | None) -> None:
        self.number = number
        self._node = node
        self._token = token
        self._target = target
        self._tls = tls
        self.held: dict[str, dict[str, str]] = {}
        """Type → name → version."""
        self._referred: dict[tuple[str, str], list[str]] = {}
        self._asked: dict[str, set[str]] = {}
        self._stream: GrpcStream | None = None
        self._over = asyncio.Event()
        self._read = 0
        self.hangs = False
        """Whether it never reads."""
        self.tally = Tally()

    @property
    def connected(self) -> bool:
        """Whether its stream is open."""
        return self._stream is not None

    async def run(self) -> None:
        """Stay connected, for ever, with Envoy's back-off."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._serve()
            except OSError:
                self.tally.failed += 1
            failures = failures + 1 if time.monotonic() - began < _BACKOFF.longest else 0
            await asyncio.sleep(_BACKOFF.delay(failures, random.random))

    def drop(self) -> None:
        """Close the connection; `run` opens another."""
        if self._stream is not None:
            self._stream.close()
            self._over.set()

    async def _serve(self) -> None:
        target = self._target
        self._over.clear()
        authority = target.authority or target.host
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(
            lambda: GrpcStream(
                authority=authority,
                path=DELTA_PATH,
                metadata=[("authorization", f"Bearer {self._token}")] if self._token else [],
                tls=self._tls is not None,
                message=self._take,
                ended=self._over.set,
            ),
            target.host,
            target.port,
            ssl=self._tls,
            server_hostname=authority if self._tls else None,
        )
        self._stream = stream
        self._read = 0
        self.tally.opened += 1
        try:
            self._open()
            if self.hangs:
                stream.pause()
            await self._over.wait()
        finally:
            self._stream = None
            self.tally.ended += 1
            stream.close()

    def _open(self) -> None:
        """Subscribe anew to everything, naming what is held, as delta Envoys do at a reconnect."""
        assert self._stream is not None
        asked, self._asked = self._asked, {}
        node = self._node
        for type_url in (CDS, EDS, LDS, RDS, SDS):
            wildcard = type_url in {CDS, LDS}
            names = set(self._target.secrets) if type_url == SDS else asked.get(type_url, set())
            if not wildcard and not names:
                continue
            self._asked[type_url] = names
            self._stream.send(
                write_request(
                    type_url,
                    node=node,
                    subscribe=sorted(names),
                    initial=self.held.get(type_url),
                )
            )
            node = ""

    def _take(self, payload: bytes) -> None:
        response = read_response(payload)
        stream, tally = self._stream, self.tally
        if stream is None:
            return
        held = self.held.setdefault(response.type_url, {})
        for name, version, _ in response.resources:
            held[name] = version
        for name in response.removed:
            held.pop(name, None)
        stream.send(write_request(response.type_url, nonce=response.nonce))
        now = time.time_ns()
        tally.acks += 1
        tally.answers[self.number] = now
        tally.first.setdefault(self.number, now)
        tally.resources += len(response.resources)
        tally.types[response.type_url] += len(response.resources)
        tally.bytes += len(payload)
        if response.type_url in {CDS, LDS}:
            self._follow_references(response, stream)

    def _follow_references(self, response: Response, stream: GrpcStream) -> None:
        """Ask for the endpoints of new clusters and the routes of new listeners, give up those of old ones."""
        for name, _, body in response.resources:
            self._referred[response.type_url, name] = references(response.type_url, name, body)
        for name in response.removed:
            self._referred.pop((response.type_url, name), None)
        wanted = {
            reference
            for (type_url, _), names in self._referred.items()
            if type_url == response.type_url
            for reference in names
        }
        type_url = EDS if response.type_url == CDS else RDS
        asked = self._asked.get(type_url, set())
        added, gone = wanted - asked, asked - wanted
        if added or gone:
            self._asked[type_url] = wanted
            for name in gone:
                self.held.get(type_url, {}).pop(name, None)
            stream.send(write_request(type_url, subscribe=sorted(added), unsubscribe=sorted(gone)))
