"""Where history is read from: the log of the running mesh, any NATS server, or an exported file.

`--log` says which: a file, `nats://host:port`, or nothing for the embedded mesh of this machine. Reading needs no
right to write: streams are looked at as they are, none is created.
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
"""Code of the refusal to read a log that does not answer."""


class LogReader(Protocol):
    """One stream, as far as reading goes; `EventLog` is one, and so is a stream of a file."""

    @property
    def name(self) -> str:
        """The stream's name."""
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
    """The streams of one mesh, and whose they are."""

    about: About
    events: LogReader
    snapshots: LogReader
    keyframes: LogReader
    status: LogReader
    certs: LogReader
    archive: Archive | None = None
    """The file, if it is one."""
    writable: EventLog | None = None
    """The events as a log that can be written, if it is live."""
    pins: EventLog | None = None
    """Where copies of pins are kept, if it is live."""
    requests: LogReader | None = None
    """Signing requests that wait, if it is live."""
    leases: LogReader | None = None
    """Who leads, if it is live."""
    foreign: ForeignRecords = msgspec.field(default_factory=ForeignRecords)
    """What was passed over while reading."""
    remembered: dict[int, int] = {}
    """First sequence of the log → from where on states are complete, once that was found out."""

    @property
    def streams(self) -> Streams:
        """Names of streams and subjects."""
        return Streams(prefix=self.about.prefix)

    @property
    def scope(self) -> str:
        """Every event of the cluster."""
        return self.streams.cluster_scope(self.about.cluster)

    def stream(self, noun: str) -> LogReader:
        """One of the streams by its noun."""
        return {
            "events": self.events,
            "snapshots": self.snapshots,
            "keyframes": self.keyframes,
            "status": self.status,
            "certs": self.certs,
        }[noun]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The argument that says which log."""
    parser.add_argument(
        "--log",
        default=os.environ.get(LOG_VARIABLE, ""),
        metavar="FILE|URL",
        help="an exported file or nats://host:port (default: $MESHLOG_LOG, else the mesh that runs here; "
        "user and password file of NATS: $MESHLOG_NATS_USER, $MESHLOG_NATS_PASSWORD_FILE; "
        "MESHLOG_NATS_ACCOUNTS=true where each stream has an account)",
    )


def collect_rarely() -> None:
    """A snapshot is millions of objects that stay: visiting them again and again cost more than half of the time."""
    gc.set_threshold(1_000_000, 50, 1000)


@contextlib.asynccontextmanager
async def opened(where: str, *, within: float = 10.0) -> AsyncGenerator[LogSource]:
    """The log at `where` (see `add_arguments`), let go at the end. Raises `BadInputError` if there is none.

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
    """An exported file as a source."""
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
