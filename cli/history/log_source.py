"""Opens the source of history: the log of the running mesh, any NATS server, or an exported file.

The value of `--log` is a file, `nats://host:port`, or empty for the embedded mesh of this machine. Reading needs no
write permission: streams are opened as they exist, none is created.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from cli.history.archive import NOUNS, About
from cli.history.archive_stream import Archive
from shared.errors import BadInputError
from shared.eventlog.foreign import ForeignRecords
from shared.eventlog.protocol import EventLog, Record
from shared.records.subjects import Streams

LOG_VARIABLE = "MESHLOG_LOG"
NO_LOG = "log/none"
"""Error code if a log does not answer."""


class LogReader(Protocol):
    """The read methods of one stream; implemented by `EventLog` and by a stream of a file."""

    @property
    def name(self) -> str:
        """Name of the stream."""
        ...

    def read(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """See `EventLog.read`."""
        ...

    def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """See `EventLog.follow`."""
        ...

    async def at(self, sequence: int) -> Record | None:
        """See `EventLog.at`."""
        ...

    async def last(self, subject: str) -> Record | None:
        """See `EventLog.last`."""
        ...

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        """See `EventLog.last_per_subject`."""
        ...

    async def bounds(self) -> tuple[int, int]:
        """See `EventLog.bounds`."""
        ...


class LogSource(msgspec.Struct, frozen=True):
    """The streams of one mesh, and the mesh that they are of."""

    about: About
    events: LogReader
    snapshots: LogReader
    keyframes: LogReader
    status: LogReader
    certs: LogReader
    archive: Archive | None = None
    """The file, or None if the log is live."""
    writable: EventLog | None = None
    """The events as a log that can be written, or None if the source is a file."""
    pins: EventLog | None = None
    """The stream of copies of pins, or None if the source is a file."""
    requests: LogReader | None = None
    """Pending signing requests, or None if the source is a file."""
    leases: LogReader | None = None
    """The leader leases, or None if the source is a file."""
    foreign: ForeignRecords = msgspec.field(default_factory=ForeignRecords)
    """Records that were skipped while reading."""
    remembered: dict[int, int] = {}
    """Cache: first sequence of the log → the sequence from which on states are complete."""

    @property
    def streams(self) -> Streams:
        """Names of the streams and subjects."""
        return Streams(prefix=self.about.prefix)

    @property
    def scope(self) -> str:
        """Subject pattern of every event of the cluster."""
        return self.streams.cluster_scope(self.about.cluster)

    def stream(self, noun: str) -> LogReader:
        """Return a stream by its noun."""
        return {
            "events": self.events,
            "snapshots": self.snapshots,
            "keyframes": self.keyframes,
            "status": self.status,
            "certs": self.certs,
        }[noun]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names the log."""
    parser.add_argument(
        "--log",
        default=os.environ.get(LOG_VARIABLE, ""),
        metavar="FILE|URL",
        help="an exported file or nats://host:port (default: $MESHLOG_LOG, else the mesh that runs here; "
        "user and password file of NATS: $MESHLOG_NATS_USER, $MESHLOG_NATS_PASSWORD_FILE; "
        "MESHLOG_NATS_ACCOUNTS=true where each stream has an account)",
    )


def collect_rarely() -> None:
    """Collect garbage less often: scans of a snapshot's millions of long-lived objects took half of the time."""
    gc.set_threshold(1_000_000, 50, 1000)


@contextlib.asynccontextmanager
async def opened(where: str, *, within: float = 10.0) -> AsyncGenerator[LogSource]:
    """Open the log at `where` (see `add_arguments`) and close it at the end. Raises `BadInputError` if there is none.

    `within`: seconds for the first answer.
    """
    collect_rarely()
    if where.startswith(("nats://", "tls://")):
        async with _remote(["--nats-url", where], within=within) as source:
            yield source
    elif where:
        archive = Archive(Path(where))
        try:
            yield of_archive(archive)
        finally:
            archive.close()
    else:
        async with _embedded(within) as source:
            yield source


def of_archive(archive: Archive) -> LogSource:
    """Return an exported file as a source."""
    events, snapshots, keyframes, status, certs = (archive.stream(noun) for noun in NOUNS)
    return LogSource(
        about=archive.contents.about,
        events=events,
        snapshots=snapshots,
        keyframes=keyframes,
        status=status,
        certs=certs,
        archive=archive,
        foreign=archive.foreign,
    )


@contextlib.asynccontextmanager
async def _embedded(within: float) -> AsyncGenerator[LogSource]:
    from cli.embedded import lifecycle, log_credentials

    host, port = lifecycle.running()["listeners"]["nats"]
    flags = log_credentials.settings(lifecycle.state_directory(), (host, port))
    async with _remote(flags, cluster=lifecycle.CLUSTER, within=within) as source:
        yield source


@contextlib.asynccontextmanager
async def _remote(flags: Sequence[str], *, within: float, cluster: str = "") -> AsyncGenerator[LogSource]:
    import asyncio

    from shared.build import VERSION
    from shared.eventlog.jetstream.quiet_logging import quiet_logging
    from shared.policy.budgets import budgets_of, changed_from_defaults
    from shared.service.settings import CommonSettings, load
    from shared.streams.jetstream import JetStreamLogs

    settings = load(CommonSettings, flags, os.environ, command="meshlog")
    streams = settings.streams
    about = About(
        cluster=cluster or settings.cluster,
        prefix=settings.prefix,
        mesh_name=settings.mesh_name,
        namespace=settings.namespace,
        trust_domain=settings.trust_domain,
        service_domain=os.environ.get("MESHLOG_SERVICE_DOMAIN", "cluster.local"),
        build=VERSION,
        exported="",
        budgets=changed_from_defaults(budgets_of(settings.budgets)),
    )
    with quiet_logging():
        logs = JetStreamLogs.from_settings(settings, name="meshlog history")
        names = (streams.events, streams.snapshots, streams.keyframes, streams.status, streams.certs)
        events, snapshots, keyframes, status, certs = (logs.existing(name) for name in names)
        try:
            try:
                async with asyncio.timeout(within):
                    await events.bounds()
            except TimeoutError as error:
                raise BadInputError(NO_LOG, "no log answers there", about=settings.nats_url) from error
            yield LogSource(
                about=about,
                events=events,
                snapshots=snapshots,
                keyframes=keyframes,
                status=status,
                certs=certs,
                writable=events,
                pins=logs.existing(streams.pins),
                requests=logs.existing(streams.csrs),
                leases=logs.existing(streams.leases),
                foreign=logs.foreign,
            )
        finally:
            await logs.close()
