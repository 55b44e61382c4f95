"""The streams of one mesh on NATS JetStream: opens them, and creates those that are missing."""

from __future__ import annotations

import asyncio
import logging
import ssl

from shared.errors import BadInputError
from shared.eventlog.durable import NO_CLUSTER, refuse, refuse_copies, weaknesses
from shared.eventlog.foreign import ForeignRecords
from shared.eventlog.jetstream.event_log import JetStreamLog
from shared.eventlog.jetstream.nats_connection import LogAccess, NatsConnection, NatsSession
from shared.eventlog.jetstream.stream_api import JetStreamApiError, ensure_stream
from shared.eventlog.protocol import EventLogError, LogUnavailableError
from shared.eventlog.stream_spec import StreamSpec
from shared.records.subjects import Streams
from shared.service.settings import CommonSettings
from shared.streams.specs import StreamSettings, specs
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.1, longest=0.4)


def _tls(ca_file: str) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise BadInputError("settings/nats-ca", f"holds no certificates ({error})", about=ca_file) from error


class JetStreamLogs:
    """The streams of one mesh on NATS, by name; a `Logs`."""

    def __init__(self, access: LogAccess, streams: Streams, settings: StreamSettings | None = None) -> None:
        self.foreign = ForeignRecords()
        """Counts the skipped records of all streams."""
        self._specs = specs(streams, settings)
        self._durable = settings is not None and settings.durable
        self._whole = streams.events
        self._user = access.user
        self._connection = NatsConnection(access)
        self._ensured: set[str] = set()

    @classmethod
    def connect(cls, access: LogAccess, streams: Streams, settings: StreamSettings | None = None) -> JetStreamLogs:
        """Begin to connect, without waiting: the log may come later than its users."""
        logs = cls(access, streams, settings)
        logs._connection.open()
        return logs

    @classmethod
    def from_settings(cls, settings: CommonSettings, *, name: str) -> JetStreamLogs:
        """Begin to connect by a service's settings; `name` is shown by the server's monitoring.

        Raises `BadInputError` for settings that contradict each other.
        """
        if settings.durable:
            refuse_copies(settings.replicas)
        access = LogAccess(
            servers=tuple(url.strip() for url in settings.nats_url.split(",")),
            name=name,
            user=settings.nats_user,
            password_file=settings.nats_password_file,
            tls=_tls(settings.nats_ca_file),
            inbox=f"_INBOX_{settings.nats_user}" if settings.nats_user else "_INBOX",
            accounts=settings.nats_accounts,
        )
        kept = StreamSettings(replicas=settings.replicas, durable=settings.durable)
        return cls.connect(access, settings.streams, kept)

    @property
    def connected(self) -> bool:
        """Whether the log can be reached at this moment."""
        return self._connection.connected

    async def open(self, stream: str) -> JetStreamLog:
        """The stream of that name, created if it is missing; waits while the log cannot be reached."""
        await self.ensure(stream)
        return JetStreamLog(self._specs[stream], self._connection, self.foreign, user=self._user)

    def existing(self, stream: str) -> JetStreamLog:
        """Return the stream of that name without creating it, for users that may only read."""
        return JetStreamLog(self._specs[stream], self._connection, self.foreign, user=self._user)

    async def ensure(self, *names: str) -> None:
        """Create the named streams, or all of the mesh, if they are missing; safe to race with others.

        Raises `BadInputError` where they must be durable and are not; see `shared.eventlog.durable`.
        """
        for name in names or tuple(self._specs):
            spec = self._specs.get(name)
            if spec is None:
                raise EventLogError("log/stream", "is no stream of this mesh", about=name)
            delays = _BACKOFF.delays()
            while name not in self._ensured:
                try:
                    await self._ensure(await self._connection.session(), spec)
                    self._ensured.add(name)
                except LogUnavailableError as error:
                    if self._connection.closed:
                        raise
                    _log.debug("stream %s cannot be created yet: %s", name, error)
                    await asyncio.sleep(delays.next())

    async def _ensure(self, session: NatsSession, spec: StreamSpec) -> None:
        try:
            config = await ensure_stream(session, spec, user=self._user)
        except JetStreamApiError as error:
            if self._durable and error.number == NO_CLUSTER:
                refuse(spec.name, ["can have one copy only, for its NATS server is no cluster"])
            raise
        if self._durable:
            refuse(spec.name, weaknesses(spec, config, whole=spec.name == self._whole))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()
