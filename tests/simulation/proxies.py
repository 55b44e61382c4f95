"""Proxies that hold what they are sent, over all their connections, and complain when they are told nonsense."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from services.xds_edge.exchange import Exchange
from shared.eventlog.epoch import begins_later
from shared.snapshot import CDS, EDS, LDS, RDS, TYPE_URLS
from tests.simulation.processes import EdgeProcess
from tests.unit.xds_edge.proxy_model import ProxyModel

Known = set[tuple[str, str, str]]


class Stream:
    """One connection of a proxy to an edge: a `Follower` of its fleet."""

    def __init__(self, edge: EdgeProcess, proxy: SimulatedProxy) -> None:
        self.edge = edge
        self.fleet = edge.fleet
        self.life = edge.lives
        self.key = proxy.key
        self.uid = proxy.uid
        self.exchange = Exchange()
        self.ended = False
        self.wake = asyncio.Event()
        self._shown = False
        self._number = proxy.connections

    def __hash__(self) -> int:
        """A fleet keeps streams in sets: in what order it wakes them must be the seed's, not the memory's."""
        return hash((self.key, self.uid, self._number))

    @property
    def synced(self) -> bool:
        return self.exchange.idle

    def refresh(self) -> None:
        proxy = self.fleet.proxy(self.key)
        if proxy is None or proxy.uid != self.uid:
            self.ended = self.ended or self._shown
            self.wake.set()
            return
        view = self.fleet.view(proxy.workload_class)
        if view is None:
            return
        self.fleet.assign(self, proxy.workload_class)
        self.exchange.show(view, self.fleet.version)
        self._shown = True
        self.wake.set()


class SimulatedProxy:
    """One Envoy."""

    def __init__(self, key: str, uid: str, edges: list[EdgeProcess], chance: random.Random) -> None:
        self.key = key
        self.uid = uid
        self.holds: dict[str, dict[str, str]] = {}
        self.connections = 0
        self.resent = 0
        self.received = 0
        self.complaints: list[str] = []
        self.seen: Callable[[str, str, str], bool] = lambda _type, _name, _hash: True
        self._edges = edges
        self._chance = chance
        self._epoch = ""
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            serving = [edge for edge in self._edges if edge.alive and edge.may_serve]
            if serving:
                await self._converse(Stream(self._chance.choice(serving), self))
            await asyncio.sleep(0.05 + self._chance.random())

    async def _converse(self, stream: Stream) -> None:
        self.connections += 1
        model = ProxyModel(stream.exchange)
        held_before = any(self.holds.values())
        for type_url in (CDS, LDS):
            model.ask(type_url, initial=self.holds.get(type_url, {}))
        for type_url in (EDS, RDS):
            held = self.holds.get(type_url, {})
            model.ask(type_url, sorted(held), initial=held)
        self.holds = model.holds
        stream.fleet.join(stream)
        until = asyncio.get_running_loop().time() + self._chance.expovariate(1 / 15)
        version = 0
        try:
            stream.refresh()
            while stream.edge.alive and stream.edge.lives == stream.life and not stream.ended:
                now = asyncio.get_running_loop().time()
                if now > until:
                    return
                stream.wake.clear()
                if stream.fleet.confirmed or not held_before:
                    version = self._pump(model, stream, version)
                if model.unanswered:
                    await asyncio.sleep(self._chance.random() * 0.01)
                    if model.unanswered:
                        model.answer()
                    continue
                if self._subscribe(model, stream):
                    continue
                try:
                    async with asyncio.timeout(0.5):
                        await stream.wake.wait()
                except TimeoutError:
                    continue
        finally:
            stream.fleet.leave(stream)

    def _pump(self, model: ProxyModel, stream: Stream, version: int) -> int:
        for offer in model.pump(asyncio.get_running_loop().time()):
            epoch, self._epoch = self._epoch, stream.fleet.snapshot.epoch
            if offer.version < version and not begins_later(self._epoch, epoch):
                self.complaints.append(f"{self.key}: {offer.type_url} of {offer.version} after {version}")
            version = max(version, offer.version)
            for name, digest in offer.put:
                self.received += 1
                if offer.type_url != EDS and self.holds[offer.type_url].get(name) == digest:
                    self.resent += 1
                if (offer.type_url, name, digest) not in stream.fleet.snapshot.resources:
                    self.complaints.append(f"{self.key}: {name}@{digest} is in no snapshot")
        return version

    def _subscribe(self, model: ProxyModel, stream: Stream) -> bool:
        """Ask for the endpoints and routes that the view has, as Envoy does by what it holds."""
        view, changed = stream.exchange.view, False
        if view is None:
            return False
        for type_url in (EDS, RDS):
            wanted, have = set(view.of(type_url).resources), model.subscribed[type_url]
            if wanted != have:
                model.ask(type_url, sorted(wanted - have), sorted(have - wanted))
                changed = True
        return changed

    def differs(self, view: dict[str, dict[str, str]]) -> str:
        """How what it holds differs from a view; empty: it does not."""
        for type_url in TYPE_URLS:
            held, wanted = self.holds.get(type_url, {}), view.get(type_url, {})
            if held != wanted:
                names = sorted(name for name in {*held, *wanted} if held.get(name) != wanted.get(name))
                return f"{self.key} differs in {type_url.rpartition('.')[2]} {names[:3]}"
        return ""
