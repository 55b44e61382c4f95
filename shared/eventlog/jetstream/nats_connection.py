"""A connection to NATS that reconnects, and requests that fail as soon as it breaks.

The reconnect of nats-py is switched off: it replays buffered messages (an append that had failed would be written
later), stays closed after some errors of a server, and does not fail waiting requests. Here a new client replaces a
lost one, and requests that wait for an answer of the old one fail at once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from shared.eventlog.jetstream.nats_client import Client, ConnectionClosedError, Msg, NatsError
from shared.eventlog.protocol import LogUnavailableError
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.05, longest=0.5, jitter=(0.5, 1.5))
_PING = 2
"""Seconds between pings; a server that does not answer two is frozen or cut off, and another is used."""
_GLANCE = 0.25
"""Seconds between checks whether nats-py has given its server up. Its callback runs only after the connection is
closed, and closing TLS to a silent peer takes up to 30 s."""
_CLOSED_WITHIN = 1.0
"""Seconds that closing a connection may take."""
_STATUS = "Status"
_PENDING_BYTES = 64 * 1024 * 1024


class LogAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses and credentials of the log."""

    servers: tuple[str, ...]
    """Addresses, `nats://host:port`."""
    name: str = "meshlog"
    """How the server's monitoring shows this connection."""
    user: str = ""
    password_file: str = ""
    """Read at each connect."""
    tls: ssl.SSLContext | None = None
    inbox: str = "_INBOX"
    """Prefix of reply subjects; a user that may subscribe to its own answers only has its own."""
    accounts: bool = False
    """Whether each stream is in an account of its own, so that its API has a prefix of its own (`deploy.nats`)."""


class NatsSession:
    """One connected client; a `NatsConnection` replaces it when it breaks."""

    def __init__(self, client: Client, *, accounts: bool = False) -> None:
        """`accounts`: see `LogAccess`."""
        self.client = client
        self._accounts = accounts
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when this session has ended."""
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._prefix = client.new_inbox() + "."
        self._numbers = itertools.count(1)

    def api(self, stream: str) -> str:
        """The prefix of JetStream's API for a stream."""
        return api_prefix(stream if self._accounts else "")

    async def prepare(self) -> None:
        """Subscribe to answers."""
        await self.client.subscribe(self._prefix + "*", cb=self._answer, pending_bytes_limit=_PENDING_BYTES)

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        within: float,
        headers: Mapping[str, str] | None = None,
        again: float | None = None,
    ) -> Msg:
        """Publish a request and return the answer.

        An idempotent request is repeated each `again` seconds until the first answer. Raises `LogUnavailableError` if
        no server is subscribed, no answer comes `within` seconds, or the session ends.
        """
        reply = f"{self._prefix}{next(self._numbers)}"
        answer = self._answers[reply] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within):
                await self.publish(subject, payload, reply=reply, headers=headers)
                while again is not None and not (await asyncio.wait({answer}, timeout=again))[0]:
                    await self.publish(subject, payload, reply=reply, headers=headers)
                message = await answer
        except TimeoutError as error:
            raise LogUnavailableError("log/timeout", f"no answer within {within:g} s", about=subject) from error
        finally:
            self._answers.pop(reply, None)
            if answer.done() and not answer.cancelled():
                answer.exception()
        if message.headers and message.headers.get(_STATUS) == "503":
            raise LogUnavailableError("log/no-responders", "nothing serves this subject now; try again", about=subject)
        return message

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish without an answer. Raises `LogUnavailableError` if the session has ended."""
        if self.lost.done():
            raise _unavailable(subject)
        try:
            await self.client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)
        except (NatsError, OSError) as error:
            raise _unavailable(subject) from error

    def end(self) -> None:
        """Fail every request that waits for an answer."""
        if not self.lost.done():
            self.lost.set_result(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(_unavailable("the connection was lost"))
        self._answers.clear()

    async def _answer(self, message: Msg) -> None:
        answer = self._answers.get(message.subject)
        if answer is not None and not answer.done():
            answer.set_result(message)


class NatsConnection:
    """Keeps a `NatsSession` with one of the servers until it is closed."""

    def __init__(self, access: LogAccess, *, jitter: Callable[[], float] = random.random) -> None:
        self._access = access
        self._jitter = jitter
        self._session: asyncio.Future[NatsSession] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def connected(self) -> bool:
        """Whether there is a working session at this moment."""
        session = self._session
        if self._closed or session is None or not session.done() or session.exception() is not None:
            return False
        return not session.result().lost.done()

    def open(self) -> None:
        """Begin to connect; does not wait."""
        loop = asyncio.get_running_loop()
        self._session = loop.create_future()
        self._keeper = loop.create_task(self._keep(), name="log connection")

    async def session(self, *, within: float | None = None) -> NatsSession:
        """Return a working session as soon as there is one.

        Raises `LogUnavailableError` after `within` seconds, or if this connection was closed.
        """
        future = self._session
        if future is not None and future.done() and not self._closed and future.exception() is None:
            session = future.result()
            if not session.lost.done():
                return session
        try:
            async with asyncio.timeout(within):
                while True:
                    if self._closed or self._session is None:
                        raise LogUnavailableError("log/closed", "this connection to the log was closed")
                    session = await asyncio.shield(self._session)
                    if not session.lost.done():
                        return session
                    await asyncio.sleep(0)
        except TimeoutError as error:
            raise _unavailable(", ".join(self._access.servers)) from error

    async def close(self) -> None:
        """Close the connection; waiting calls raise `LogUnavailableError`."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        future = self._session
        if future is None:
            return
        session: NatsSession | None = None
        if not future.done():
            future.set_exception(LogUnavailableError("log/closed", "this connection to the log was closed"))
            future.exception()
        elif future.exception() is None:
            session = future.result()
            self._let_go(session.client)
        await self._all_closed()
        if session is not None:
            session.end()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._session is not None
        reported = False
        delays = _BACKOFF.delays(self._jitter)
        # A cancellation can get lost inside (nats-py swallows some, and so does `asyncio.wait_for` of Python 3.11
        # when what it waits for ends at the same moment), hence the flag beside it.
        while not self._closed:
            try:
                session = await self._dial()
            except (NatsError, OSError, TimeoutError) as error:
                if not reported:
                    reported = True
                    _log.warning("the log cannot be reached, trying on: %s", error or type(error).__name__)
                await asyncio.sleep(delays.next())
                continue
            _log.info("connected to the log" if not reported else "the log can be reached again")
            reported = False
            delays.reset()
            self._session.set_result(session)
            while not session.lost.done() and session.client.is_connected:
                await asyncio.wait({session.lost}, timeout=_GLANCE)
            self._session = loop.create_future()
            session.end()
            _log.warning("the connection to the log was lost")
            reported = True
            self._let_go(session.client)

    async def _all_closed(self) -> None:
        """Wait a little for what is being closed, then leave it to the kernel."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSED_WITHIN)
        for closing in self._closing:
            closing.cancel()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSED_WITHIN)

    def _let_go(self, client: Client) -> None:
        """Close it beside what goes on: a silent peer is not waited for."""
        closing = asyncio.get_running_loop().create_task(_quietly(client.close), name="closing a log connection")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _dial(self) -> NatsSession:
        client = Client()
        session: NatsSession | None = None

        async def lost() -> None:
            if session is not None:
                session.end()

        async def failed(error: Exception) -> None:
            # Connect failures are raised as well; what else comes here has no other way to be known.
            if session is not None and not self._closed:
                _log.warning("the log reports an error: %s", error)

        access = self._access
        password = await asyncio.to_thread(_read, access.password_file) if access.password_file else ""
        try:
            async with asyncio.timeout(5.0):
                await client.connect(
                    list(access.servers),
                    name=access.name,
                    user=access.user or None,
                    password=password or None,
                    tls=access.tls,
                    inbox_prefix=access.inbox,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=2,
                    ping_interval=_PING,
                    max_outstanding_pings=2,
                    error_cb=failed,
                    disconnected_cb=lost,
                    closed_cb=lost,
                )
                session = NatsSession(client, accounts=access.accounts)
                await session.prepare()
                await client.flush(timeout=2)
        except BaseException:
            self._let_go(client)
            raise
        if client.is_closed:
            raise ConnectionClosedError
        return session


def api_prefix(account: str) -> str:
    """Return the prefix of JetStream's API of another account; of the client's own account if `account` is empty."""
    return f"$JS.{account}.API" if account else "$JS.API"


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip()


def _unavailable(about: str) -> LogUnavailableError:
    return LogUnavailableError("log/unavailable", "the log cannot be reached now; try again", about=about)


async def _quietly(close: Callable[[], Awaitable[None]]) -> None:
    """Close a client that may be broken already, so its errors are of no interest."""
    try:
        await close()
    except (NatsError, OSError) as error:
        _log.debug("while closing a connection to the log: %s", error)
