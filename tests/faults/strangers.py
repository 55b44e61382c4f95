"""Writes to the log without the right to: without a user, and as a service in another's stream (fault 44).

With the credentials of a stolen edge: its password, and the CA of the servers. NATS itself refuses both, and logs the
user and the subject.
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from pathlib import Path

import msgspec
import yaml

from cli.embedded import lifecycle, log_credentials
from deploy.install.service_workloads import NATS_SECRET
from shared.eventlog.jetstream.nats_client import Client, NatsError
from shared.eventlog.jetstream.nats_connection import LogAccess, NatsConnection
from shared.eventlog.protocol import LogUnavailableError
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.waiting import eventually

FORGED = Streams().event_subject(lifecycle.CLUSTER, "TrafficTarget", "bookstore", "everybody")
THIEF = "xds-edge"


async def refused_without_a_name() -> str:
    """The error of the server for a client without a user."""
    operator = lifecycle.log_access(lifecycle.running())
    client = Client()
    try:
        await client.connect(list(operator.servers), tls=operator.tls, allow_reconnect=False, connect_timeout=5)
    except NatsError as error:
        return str(error)
    finally:
        await client.close()
    return ""


def passwords() -> dict[str, str]:
    """The password of each user of the log, by the name of its Secret."""
    text = (lifecycle.state_directory() / log_credentials.SECRETS).read_text(encoding="utf-8")
    secrets = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)}
    return {name: data["password"] for name, data in secrets.items() if "password" in data}


def _stolen(file: Path) -> LogAccess:
    file.write_text(passwords()[NATS_SECRET.format(THIEF)], encoding="utf-8")
    operator = lifecycle.log_access(lifecycle.running())
    return msgspec.structs.replace(operator, user=THIEF, password_file=str(file), inbox=f"_INBOX_{THIEF}")


async def forge() -> bool:
    """Whether an edge's credentials can write an event."""
    with tempfile.TemporaryDirectory() as elsewhere:
        connection = NatsConnection(_stolen(Path(elsewhere, "password")))
        connection.open()
        try:
            session = await connection.session(within=5)
            await session.request(FORGED, b"{}", within=2)
        except LogUnavailableError:
            return False
        finally:
            await connection.close()
    return True


def shown() -> list[str]:
    """Where a password of the log can be seen by others than its owner: a log, an open file, a command line."""
    known, state = [one.encode() for one in passwords().values()], lifecycle.state_directory()
    assert len(known) > len(("ingestor", "compiler", "xds-edge", "ca", "injector"))
    places: list[str] = []
    for path in sorted(one for one in state.rglob("*") if one.is_file() and not one.is_symlink()):
        holds = any(password in path.read_bytes() for password in known)
        if holds and ("logs" in path.relative_to(state).parts or path.stat().st_mode & 0o077):
            places.append(str(path.relative_to(state)))
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = process.read_bytes()
            places += [words.decode("utf-8", "replace")] if any(password in words for password in known) else []
    return places


async def in_the_clear() -> bool:
    """Whether a client without the servers' CA can connect."""
    operator = lifecycle.log_access(lifecycle.running())
    trusting_others = ssl.create_default_context()
    connection = NatsConnection(LogAccess(servers=operator.servers, tls=trusting_others, user="operator"))
    connection.open()
    try:
        await connection.session(within=1)
    except LogUnavailableError:
        return False
    finally:
        await connection.close()
    return True


async def are_refused() -> None:
    """The log refuses clients without a user and events of an edge, and its servers log both."""
    assert "authorization violation" in (await refused_without_a_name()).lower()
    assert not await in_the_clear()
    assert not await forge()
    logs = JetStreamLogs.connect(lifecycle.log_access(lifecycle.running()), Streams())
    try:
        assert await logs.existing(Streams().events).last(FORGED) is None
    finally:
        await logs.close()

    def said(*words: str) -> bool:
        files = [file for file in (lifecycle.state_directory() / "logs").rglob("*.log") if "nats-" in str(file)]
        lines = [line for file in files for line in file.read_text("utf-8", "replace").splitlines()]
        return any(all(word in line for word in words) for line in lines)

    await eventually(lambda: said("authentication error"), within=5, what="a server says that nobody was let in")
    what = "a server says who tried to write what"
    await eventually(lambda: said("Publish Violation", THIEF, FORGED), within=5, what=what)
