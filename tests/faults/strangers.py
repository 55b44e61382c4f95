"""Who may not write into the log, and does: nobody's name, and a service that writes what is another's (fault 44).

With what a stolen edge would have: its password, and the CA by which it knows the servers. Both are refused by NATS
itself, whose log names who tried what.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec
import yaml

from cli import credentials, embedded
from deploy.install.workloads import NATS_SECRET
from shared.eventlog.connection import Access, Connection
from shared.eventlog.jetstream import JetStreamLogs
from shared.eventlog.nats_client import Client, NatsError
from shared.eventlog.protocol import LogUnavailableError
from shared.subjects import Streams
from tests.waiting import eventually

FORGED = Streams().event_subject(embedded.CLUSTER, "TrafficTarget", "bookstore", "everybody")
THIEF = "xds-edge"


async def refused_without_a_name() -> str:
    """What the server says to who has no user."""
    operator = embedded.log_access(embedded.running())
    try:
        await Client().connect(list(operator.servers), tls=operator.tls, allow_reconnect=False, connect_timeout=5)
    except NatsError as error:
        return str(error)
    return ""


async def forge(tmp_path: Path) -> bool:
    """Whether an edge's credentials can write an event."""
    text = (embedded.state_directory() / credentials.SECRETS).read_text(encoding="utf-8")
    secrets = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)}
    password = tmp_path / "password"
    password.write_text(secrets[NATS_SECRET.format(THIEF)]["password"], encoding="utf-8")
    operator = embedded.log_access(embedded.running())
    stolen = msgspec.structs.replace(operator, user=THIEF, password_file=str(password), inbox=f"_INBOX_{THIEF}")
    connection = Connection(stolen)
    connection.open()
    try:
        line = await connection.line(within=5)
        await line.request(FORGED, b"{}", within=2)
    except LogUnavailableError:
        return False
    finally:
        await connection.close()
    return True


async def in_the_clear() -> bool:
    """Whether somebody without the servers' CA is let in."""
    operator = embedded.log_access(embedded.running())
    trusting_others = ssl.create_default_context()
    connection = Connection(Access(servers=operator.servers, tls=trusting_others, user="operator"))
    connection.open()
    try:
        await connection.line(within=1)
    except LogUnavailableError:
        return False
    finally:
        await connection.close()
    return True


async def are_refused(tmp_path: Path) -> None:
    """The log lets nobody in without a name, lets an edge write no event, and its servers say who tried."""
    assert "authorization violation" in (await refused_without_a_name()).lower()
    assert not await in_the_clear()
    assert not await forge(tmp_path)
    logs = JetStreamLogs.connect(embedded.log_access(embedded.running()), Streams())
    try:
        assert await logs.existing(Streams().events).last(FORGED) is None
    finally:
        await logs.close()

    def said(*words: str) -> bool:
        files = [file for file in (embedded.state_directory() / "logs").rglob("*.log") if "nats-" in str(file)]
        lines = [line for file in files for line in file.read_text("utf-8", "replace").splitlines()]
        return any(all(word in line for word in words) for line in lines)

    await eventually(lambda: said("authentication error"), within=5, what="a server says that nobody was let in")
    what = "a server says who tried to write what"
    await eventually(lambda: said("Publish Violation", THIEF, FORGED), within=5, what=what)
