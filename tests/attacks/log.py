"""Attacks on the log by who has one of its users: what the server itself writes for a client, and forged payloads.

Each function does one thing to one server, a bounded number of times, and says what the server answered. The caller
looks at what became of the streams. Only for servers on loopback or in a mesh's own namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec
import yaml
from nats.aio.client import Client
from nats.errors import Error as NatsError

from cli.embedded import lifecycle, log_credentials
from deploy.install.service_workloads import NATS_SECRET
from shared.eventlog.chain import chain_batch
from shared.eventlog.jetstream.nats_connection import api_prefix
from shared.eventlog.protocol import Checkpoint, Draft
from shared.records.subjects import Streams
from tests.attacks.attack import Attack, Cost
from tests.attacks.scene import AttackScene

THIEF = "reader"
"""The user of the log with the least rights."""
API = "$JS.API"
WITHIN = 1.0
"""Seconds that an answer may take; a server says nothing to who lacks the right."""
VERBS = (
    "INFO",
    "STREAM.CREATE.{stream}",
    "STREAM.UPDATE.{stream}",
    "STREAM.NAMES",
    "STREAM.LIST",
    "STREAM.INFO.{stream}",
    "STREAM.DELETE.{stream}",
    "STREAM.PURGE.{stream}",
    "STREAM.MSG.DELETE.{stream}",
    "STREAM.MSG.GET.{stream}",
    "STREAM.SNAPSHOT.{stream}",
    "STREAM.RESTORE.{stream}",
    "STREAM.PEER.REMOVE.{stream}",
    "STREAM.LEADER.STEPDOWN.{stream}",
    "DIRECT.GET.{stream}",
    "CONSUMER.CREATE.{stream}",
    "CONSUMER.CREATE.{stream}.evil",
    "CONSUMER.DURABLE.CREATE.{stream}.evil",
    "CONSUMER.NAMES.{stream}",
    "CONSUMER.LIST.{stream}",
    "CONSUMER.INFO.{stream}.evil",
    "CONSUMER.DELETE.{stream}.evil",
    "CONSUMER.PAUSE.{stream}.evil",
    "CONSUMER.RESET.{stream}.evil",
    "CONSUMER.UNPIN.{stream}.evil",
    "CONSUMER.MSG.NEXT.{stream}.evil",
    "CONSUMER.LEADER.STEPDOWN.{stream}.evil",
    "META.LEADER.STEPDOWN",
    "SERVER.REMOVE",
    "ACCOUNT.PURGE.$G",
)
"""Requests of the JSON API (NATS 2.15), with the stream's name to be filled in."""


@contextlib.asynccontextmanager
async def as_user(
    url: str, user: str = "", password: str = "", *, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Client]:
    """A plain connection to the log as one of its users; without a name: as nobody."""

    async def ignore(_error: Exception) -> None:
        return

    client = Client()
    try:
        await client.connect(
            url,
            user=user or None,
            password=password or None,
            tls=tls,
            inbox_prefix=(f"_INBOX_{user}" if user else "_INBOX").encode(),
            allow_reconnect=False,
            connect_timeout=5,
            error_cb=ignore,
        )
        yield client
    finally:
        # Also if it was refused: the client keeps the connection.
        await client.close()


async def ask(client: Client, subject: str, payload: bytes = b"", *, within: float = WITHIN) -> dict[str, Any] | None:
    """The JSON answer to a request; none if there is none in time, or it is no JSON."""
    try:
        message = await client.request(subject, payload, timeout=within)
        return msgspec.json.decode(message.data, type=dict[str, Any])
    except (NatsError, msgspec.MsgspecError, TimeoutError):
        return None


async def answer_into(client: Client, request: str, subject: str, payload: bytes = b"") -> None:
    """Have the server write its answer to a request on a subject: the reply subject, for which it asks no right."""
    await client.publish(request, payload, reply=subject)


async def deliver_into(
    client: Client,
    stream: str,
    subject: str,
    *,
    name: str,
    prefix: str = API,
    heartbeat: float = 0.1,
    within: float = WITHIN,
) -> dict[str, Any] | None:
    """Have the server deliver a stream, and heartbeats, to a subject: a push consumer. What it answered."""
    config: dict[str, Any] = {
        "name": name,
        "deliver_subject": subject,
        "ack_policy": "none",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "flow_control": True,
        "idle_heartbeat": int(heartbeat * 1e9),
        "inactive_threshold": 2_000_000_000,
        "mem_storage": True,
        "num_replicas": 1,
    }
    request = msgspec.json.encode({"stream_name": stream, "config": config, "action": ""})
    return await ask(client, f"{prefix}.CONSUMER.CREATE.{stream}.{name}", request, within=within)


async def every_verb_into(client: Client, stream: str, subjects: Sequence[str], *, prefix: str = API) -> None:
    """Each request of the API about a stream, with its answer sent to each of these subjects.

    What purges is asked to forget nothing: who may trim a stream may do so.
    """
    for verb in VERBS:
        harmless = b'{"seq":1}'
        payloads = [harmless] if "PURGE" in verb else [b"", harmless]
        for subject in subjects:
            for payload in payloads:
                await answer_into(client, f"{prefix}.{verb.format(stream=stream)}", subject, payload)


async def acknowledge_into(client: Client, stream: str, subjects: Sequence[str]) -> None:
    """What a consumer's client sends, with its answer sent to each of these subjects."""
    for request in (
        f"$JS.ACK.{stream}.evil.1.1.1.1700000000000000000.0",
        f"$JS.FC.{stream}.evil.abcdefgh",
        f"$JS.SNAPSHOT.ACK.{stream}.evil",
    ):
        for subject in subjects:
            for payload in (b"", b"+ACK", b"+NXT", b"-NAK", b"+WPI", b"+TERM"):
                await answer_into(client, request, subject, payload)


async def write(client: Client, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> bool:
    """Publish a record plainly; whether the server stored it."""
    try:
        message = await client.request(subject, payload, timeout=WITHIN, headers=dict(headers) if headers else None)
    except (NatsError, TimeoutError):
        return False
    return b'"error"' not in message.data and b'"seq"' in message.data


async def forge_behind(client: Client, tip: Checkpoint, scope: str, draft: Draft) -> bool:
    """Publish a record that continues the chain as its writers do, whatever it says; whether the server stored it."""
    forged = chain_batch([draft], scope=scope, after=tip, epoch="" if tip.epoch else "e1")
    expected = {
        "Nats-Expected-Last-Subject-Sequence": str(tip.sequence),
        "Nats-Expected-Last-Subject-Sequence-Subject": scope,
    }
    return await write(client, draft.subject, draft.payload, {**forged.headers[0], **expected})


async def settle(client: Client, seconds: float = 0.5) -> None:
    """Let heartbeats come that were asked for."""
    await client.flush(timeout=2)
    await asyncio.sleep(seconds)


def _password(user: str) -> str:
    text = (lifecycle.state_directory() / log_credentials.SECRETS).read_text(encoding="utf-8")
    secrets = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)}
    return str(secrets[NATS_SECRET.format(user)]["password"])


async def _server_writes(scene: AttackScene) -> Cost:
    """A thief of the reader's password has the server write into each stream; none of it may arrive or harm."""
    access, streams = lifecycle.log_access(lifecycle.running()), Streams()
    names = (streams.events, streams.snapshots, streams.keyframes, streams.status)
    targets = [
        streams.event_subject(scene.cluster, "TrafficTarget", "bookstore", "everybody"),
        streams.snapshots,
        f"{streams.status}.evil",
    ]
    async with as_user(access.servers[0], THIEF, _password(THIEF), tls=access.tls) as client:
        for stream in names:
            for prefix in (api_prefix(stream), api_prefix("")):
                await every_verb_into(client, stream, targets, prefix=prefix)
            await acknowledge_into(client, stream, targets)
        wanted = [
            deliver_into(client, stream, target, name=f"evil-{number}", prefix=api_prefix(stream), within=0.5)
            for stream in names
            for number, target in enumerate(targets)
        ]
        made = await asyncio.gather(*wanted)
        stored = [subject for subject in targets if await write(client, subject, b'{"kind":"TrafficTarget"}')]
        await settle(client)
    assert not stored, f"the reader of the log wrote {stored}"
    taken = sum(answer is not None and "error" not in answer for answer in made)
    requests = len(names) * 2 * len(VERBS) * len(targets) + len(wanted) + len(targets)
    return Cost(connections=1, requests=requests, said=f"nothing written; {taken} of {len(wanted)} consumers made")


ATTACKS = (
    Attack(
        name="log-server-writes",
        what="a reader of the log has its server write into every stream",
        run=_server_writes,
        short=True,
    ),
)
