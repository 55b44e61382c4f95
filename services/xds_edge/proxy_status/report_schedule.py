"""When the state of one proxy is worth a record in `MESH_STATUS`, and how soon it is to be written.

It is apart from the stream because it needs no transport: the simulation's streams report through it too.
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
    """What is reported of the proxy of one stream."""

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
        """Of its pod; empty until it is compiled: until then nothing is said of its end."""
        self._stream = stream
        self._session = session
        self._fleet = fleet
        self._secrets = secrets
        self._reporter = reporter
        self._edge = edge
        self._reported = 0
        """The newest version held completely that was reported."""
        self._stuck = ""

    def doubt(self) -> None:
        """Report again what is held completely: a type that is new counts as not held until it was looked at."""
        self._reported = -1

    def acked(self, type_url: str) -> None:
        """The proxy accepted a response."""
        self.record.acked(type_url)
        refusals = self.record.refusals
        if type_url in refusals and not self._session.subscriptions[type_url].refused:
            del refusals[type_url]
            self.note(urgent=True)
        elif not self.moved():
            self.note(urgent=False)

    def refused(self, offer: Offer, named: dict[str, str], message: str) -> None:
        """The proxy refused these resources of a response, with this sentence."""
        self.record.refused(offer, named, message)
        self.note(urgent=True)

    def moved(self) -> bool:
        """Report at once that a version is held completely; whether there was anything to report."""
        complete, stuck = self._session.complete, self._fleet.stuck
        if (complete, stuck) == (self._reported, self._stuck):
            return False
        self.note(urgent=complete > self._reported)
        self._reported, self._stuck = complete, stuck
        return True

    def note(self, *, urgent: bool) -> None:
        """Report the proxy's state, at once or with what comes soon."""
        # A half-open stream of the same proxy may linger: the newest one speaks for it.
        key = self._stream.key
        if self._fleet.newest(key) is self._stream:
            self._reporter.note(key, self._status, urgent=urgent)

    def end(self) -> None:
        """Report that the proxy is gone, unless it has opened another stream here already."""
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
