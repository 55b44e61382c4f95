"""Decides when the state of one proxy is written to `MESH_STATUS`, and how soon.

It needs no transport, so the streams of the simulation report through it too.
"""

from __future__ import annotations

from services.xds_edge.proxy_status.proxy_record import ProxyRecord
from services.xds_edge.proxy_status.reporter import StatusReporter
from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.snapshot.fleet import Fleet, FleetStream
from services.xds_edge.xds.ads import AdsSession
from services.xds_edge.xds.subscription import Offer
from shared.records.proxy_status import ProxyStatus


class ReportSchedule:
    """The reports about the proxy of one stream."""

    __slots__ = (
        "_edge",
        "_fleet",
        "_reported",
        "_reporter",
        "_secrets",
        "_session",
        "_stream",
        "_stuck",
        "record",
        "workload_class",
    )

    def __init__(
        self,
        stream: FleetStream,
        session: AdsSession,
        record: ProxyRecord,
        *,
        fleet: Fleet,
        secrets: WorkloadSecrets,
        reporter: StatusReporter,
        edge: str,
    ) -> None:
        """`edge`: instance id of this edge."""
        self.record = record
        self.workload_class = ""
        """The pod's class; empty until the pod is compiled. Until then the end of the stream is not reported."""
        self._stream = stream
        self._session = session
        self._fleet = fleet
        self._secrets = secrets
        self._reporter = reporter
        self._edge = edge
        self._reported = 0
        """The newest completely held version that was reported."""
        self._stuck = ""

    def doubt(self) -> None:
        """Have the completely held version reported again: a new type counts as not held until it was compared."""
        self._reported = -1

    def acked(self, type_url: str) -> None:
        """Report that the proxy accepted a response."""
        self.record.acked(type_url)
        refusals = self.record.refusals
        if type_url in refusals and not self._session.subscriptions[type_url].refused:
            del refusals[type_url]
            self.note(urgent=True)
        elif not self.moved():
            self.note(urgent=False)

    def refused(self, offer: Offer, named: dict[str, str], message: str) -> None:
        """Report that the proxy refused these resources of a response, with its message."""
        self.record.refused(offer, named, message)
        self.note(urgent=True)

    def moved(self) -> bool:
        """Report a change of the completely held version at once; returns whether it changed."""
        complete, stuck = self._session.complete, self._fleet.stuck
        if (complete, stuck) == (self._reported, self._stuck):
            return False
        self.note(urgent=complete > self._reported)
        self._reported, self._stuck = complete, stuck
        return True

    def note(self, *, urgent: bool) -> None:
        """Report the proxy's state, at once or together with the next changes."""
        # A half-open stream of the same proxy may remain: only the newest stream reports.
        key = self._stream.key
        if self._fleet.newest(key) is self._stream:
            self._reporter.note(key, self._status, urgent=urgent)

    def end(self) -> None:
        """Report that the proxy is gone, unless it has opened another stream to this edge."""
        self.record.end()
        if self.workload_class and self._fleet.newest(self._stream.key) is None:
            self._reporter.note(self._stream.key, self._status, urgent=False, ended=True)

    def _status(self) -> ProxyStatus:
        return self.record.status(
            self._session,
            self._secrets,
            edge=self._edge,
            workload_class=self.workload_class,
            stuck=self._fleet.stuck,
        )
