"""Proxies that hold what they receive, over all their connections, and report contradictory responses."""

from __future__ import annotations

import asyncio
import random

from services.xds_edge.proxy_status.proxy_record import ProxyRecord
from services.xds_edge.proxy_status.report_schedule import ReportSchedule
from services.xds_edge.xds.ads import AdsSession
from services.xds_edge.xds.subscription import AckResult, Offer
from shared.eventlog.epoch import begins_later
from shared.identity.service_account_tokens import WorkloadToken
from shared.records.snapshot import CDS, EDS, LDS, RDS, TYPE_URLS
from tests.simulation.processes import EdgeProcess
from tests.simulation.witness import Holds, Witness
from tests.unit.xds_edge.proxy_model import ProxyModel

SILENCE = 8.0
"""Seconds after which a proxy leaves a silent edge."""
STALE = 3.5
"""Seconds after which an edge that is cut off from the log knows it, and leaves a proxy alone that holds something;
it looks every `GLANCE`, and waits for 2 s for an answer."""
GLANCE = 1.0
"""What 5 seconds are in life: cuts are longer than the histories are there."""


class Stream:
    """One connection of a proxy to an edge: a `Follower` of its fleet."""

    def __init__(self, edge: EdgeProcess, proxy: SimulatedProxy) -> None:
        self.edge = edge
        self.fleet = edge.fleet
        self.life = edge.lives
        self.key = proxy.key
        self.uid = proxy.uid
        self.session = AdsSession()
        self.progress = ReportSchedule(
            self,
            self.session,
            ProxyRecord(proxy.claims, edge.nanoseconds),
            fleet=edge.fleet,
            secrets=edge.secrets,
            reporter=edge.reporter,
            edge=f"{edge.name}/{edge.lives}",
        )
        self.ended = False
        self.shown: tuple[str, int, str] = ("", 0, "")
        """Epoch, version and class of what is shown to the proxy."""
        self.wake = asyncio.Event()
        self._held_at_start = any(proxy.holds.values())
        self._may_go_on = False
        self.behind = False
        """Whether it began with what was older than it could know, and comes along from there."""
        self._number = proxy.connections

    def __hash__(self) -> int:
        """A fleet keeps streams in sets: in what order it wakes them must be the seed's, not the memory's."""
        return hash((self.key, self.uid, self._number))

    @property
    def may_speak(self) -> bool:
        """As a `ProxyStream` decides it."""
        self._may_go_on = self._may_go_on or self.fleet.confirmed
        return self._may_go_on or not self._held_at_start

    @property
    def synced(self) -> bool:
        return self.session.idle

    def refresh(self) -> None:
        proxy = self.fleet.proxy(self.key)
        if proxy is None or proxy.uid != self.uid:
            self.ended = self.ended or bool(self.shown[1])
            self.wake.set()
            return
        view = self.fleet.view(proxy.workload_class)
        if view is None:
            return
        self.fleet.assign(self, proxy.workload_class)
        self.progress.workload_class = proxy.workload_class
        if self.session.view is None:
            self.progress.note(urgent=False)
        self.session.show(view, self.fleet.version, self.fleet.snapshot.epoch)
        self.shown = self.fleet.snapshot.epoch, self.fleet.version, proxy.workload_class
        self.wake.set()


class SimulatedProxy:
    """One Envoy."""

    def __init__(self, key: str, uid: str, edges: list[EdgeProcess], chance: random.Random, witness: Witness) -> None:
        self.key = key
        self.uid = uid
        cluster, namespace, pod = key.split("/")
        self.claims = WorkloadToken(
            cluster=cluster,
            namespace=namespace,
            service_account="",
            service_account_uid="",
            pod_name=pod,
            pod_uid=uid,
            issued_at=0.0,
            expires_at=0.0,
            jti="",
        )
        """The claims of its token."""
        self.holds: Holds = {}
        self.connections = 0
        self.resent = 0
        self.slow = 0.0
        """Seconds that it may take to answer."""
        self.complaints: list[str] = []
        self.went_back: list[str] = []
        """Offers that were older than what other edges had offered; right if what was offered before is lost."""
        self._edges = edges
        self._chance = chance
        self._witness = witness
        self._epoch = ""
        self._newest = "", 0, 0.0
        """Epoch and version of the latest that it was ever offered, and since when."""
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            serving = [edge for edge in self._edges if edge.alive and edge.may_serve and not edge.life.frozen]
            if serving:
                await self._converse(Stream(self._chance.choice(serving), self))
            await asyncio.sleep(0.05 + self._chance.random())

    async def _converse(self, stream: Stream) -> None:
        self.connections += 1
        clock = asyncio.get_running_loop().time
        model = ProxyModel(stream.session)
        stream.progress.doubt()
        for type_url in (CDS, LDS):
            model.ask(type_url, initial=self.holds.get(type_url, {}))
        # It names all that it wants at once, as Envoy does, also what its last connection did not come to send.
        referred = self._referred(CDS, LDS)
        for type_url in (EDS, RDS):
            held = self.holds.get(type_url, {})
            model.ask(type_url, sorted(referred[type_url] | held.keys()), initial=held)
        self.holds = model.holds
        stream.fleet.join(stream)
        until = heard = clock()
        until += self._chance.expovariate(1 / 15)
        version = 0
        try:
            stream.refresh()
            while stream.edge.alive and stream.edge.lives == stream.life and not stream.ended:
                if clock() > until:
                    return
                if stream.edge.life.frozen:
                    if clock() > heard + SILENCE:
                        return
                    await asyncio.sleep(0.25)
                    continue
                heard = clock()
                stream.wake.clear()
                if stream.may_speak:
                    version = self._pump(model, stream, version)
                stream.progress.moved()
                if model.unanswered:
                    await asyncio.sleep(self._chance.random() * (0.01 + self.slow))
                    if model.unanswered and not stream.edge.life.frozen:
                        self._answer(model, stream)
                    continue
                if self._subscribe(model):
                    continue
                if stream.synced and stream.may_speak:
                    self._witness.at_rest(self.key, *stream.shown, self.holds)
                try:
                    async with asyncio.timeout(0.5):
                        await stream.wake.wait()
                except TimeoutError:
                    continue
        finally:
            stream.fleet.leave(stream)
            stream.progress.end()

    def _answer(self, model: ProxyModel, stream: Stream) -> None:
        """Take the oldest response, whole; the edge reports it as `ProxyStream` does."""
        type_url = model.unanswered[0].type_url
        if model.answer(asking=lambda: self._subscribe(model)) is AckResult.ACK:
            stream.progress.acked(type_url)
        self._check()

    def _pump(self, model: ProxyModel, stream: Stream, version: int) -> int:
        for offer in model.pump(asyncio.get_running_loop().time()):
            epoch, self._epoch = self._epoch, stream.fleet.snapshot.epoch
            if begins_later(self._epoch, epoch):
                # After a loss of everything a later epoch may have smaller versions.
                version = 0
            if offer.version < version:
                self.complaints.append(f"P3: {self.key} is offered {offer.type_url} of {offer.version} after {version}")
            version = max(version, offer.version)
            self._compare(stream, offer)
            for name, digest in offer.put:
                if offer.type_url != EDS and self.holds[offer.type_url].get(name) == digest:
                    self.resent += 1
                if not self._witness.sent(stream.fleet.snapshot, offer.type_url, name, digest):
                    self.complaints.append(f"P4: {self.key} is sent {name}@{digest}, which is in no snapshot")
        return version

    def _compare(self, stream: Stream, offer: Offer) -> None:
        """Over all connections: what is offered is not long older than what was offered before."""
        now, epoch = asyncio.get_running_loop().time(), stream.fleet.snapshot.epoch
        before, version, since = self._newest
        if begins_later(epoch, before) or (epoch == before and offer.version > version) or not before:
            self._newest = epoch, offer.version, now
        elif epoch == before and offer.version == version:
            return
        elif now - since <= STALE:
            stream.behind = True
        elif not stream.behind:
            self.went_back.append(
                f"P3: {self.key} is offered {offer.type_url} of {offer.version} by {stream.edge.name}, "
                f"{now - since:.0f} s after {version}"
            )

    def _referred(self, *type_urls: str) -> dict[str, set[str]]:
        """What the resources of these types that it holds refer to, by type."""
        found: dict[str, set[str]] = {CDS: set(), RDS: set(), EDS: set()}
        for type_url in type_urls:
            for name, digest in self.holds.get(type_url, {}).items():
                for kind, target in self._witness.refers(type_url, name, digest):
                    found[kind].add(target)
        return found

    def _check(self) -> None:
        """Make before break: no listener, and no route of one, refers to a cluster that is not there."""
        listeners = self._referred(LDS)
        wanted, held = listeners[CDS], self.holds.get(RDS, {})
        for name in listeners[RDS] & held.keys():
            wanted |= {target for _, target in self._witness.refers(RDS, name, held[name])}
        if missing := (wanted & self._witness.clusters) - self.holds.get(CDS, {}).keys():
            self.complaints.append(f"P4: {self.key} routes to {sorted(missing)[:3]}, which it does not hold")

    def _subscribe(self, model: ProxyModel) -> bool:
        """Ask for the endpoints and routes to which what it holds refers, and no longer for others, as Envoy does."""
        referred, changed = self._referred(CDS, LDS), False
        for type_url in (EDS, RDS):
            wanted, have = referred[type_url], model.subscribed[type_url]
            if wanted != have:
                model.ask(type_url, sorted(wanted - have), sorted(have - wanted))
                changed = True
        return changed

    def differs(self, view: Holds) -> str:
        """How what it holds differs from a view; empty: it does not."""
        for type_url in TYPE_URLS:
            held, wanted = self.holds.get(type_url, {}), view.get(type_url, {})
            if held != wanted:
                names = sorted(name for name in {*held, *wanted} if held.get(name) != wanted.get(name))
                return f"{self.key} differs in {type_url.rpartition('.')[2]} {names[:3]}"
        return ""
