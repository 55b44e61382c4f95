"""Two replicas as processes over a real NATS, and two clusters over one log: one writes, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from deploy.devcluster.apiserver import ApiServer
from shared.eventlog.chain import ChainVerifier
from shared.records import events
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.integration.ingestor.test_process import Process
from tests.nats_server import NatsServer
from tests.waiting import eventually

pytestmark = pytest.mark.nats

STREAMS = Streams()


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncGenerator[tuple[NatsServer, JetStreamLogs]]:
    server = NatsServer(tmp_path)
    server.start()
    logs = JetStreamLogs.connect(server.access, STREAMS)
    yield server, logs
    await logs.close()
    server.stop()


async def served(stack: AsyncExitStack, path: Path) -> ApiServer:
    """An API server, and its kubeconfig at the path."""
    api = ApiServer(addresses=[("127.0.0.1", 0)])
    await api.start()
    stack.push_async_callback(api.stop)
    await asyncio.to_thread(path.write_text, api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
    return api


async def account(api: ApiServer, name: str) -> None:
    await api.cluster.create("serviceaccounts", {"metadata": {"name": name, "namespace": "default"}})


async def accounts(logs: JetStreamLogs, cluster: str = "c1") -> list[str]:
    """Names of the service accounts that the log has of a cluster, in order; its chain is checked."""
    verifier, found = ChainVerifier(), list[str]()
    async for record in (await logs.open(STREAMS.events)).read(subjects=STREAMS.cluster_scope(cluster)):
        verifier.fold(record)
        event = events.decode(record.payload)
        if event.kind == "ServiceAccount":
            found.append(event.name)
    return found


def leads(process: Process) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith("meshlog_ingestor_leads")]
    return float(value) == 1.0


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
async def test_a_standby_takes_over_and_each_change_is_written_once(
    nats: tuple[NatsServer, JetStreamLogs], tmp_path: Path, number: signal.Signals
) -> None:
    """Changes of the interregnum included, without a list; one writes at any time."""
    server, logs = nats
    async with AsyncExitStack() as stack:
        api = await served(stack, tmp_path / "kubeconfig")
        flags = ("--nats-url", server.url, "--kubeconfig", str(tmp_path / "kubeconfig"))
        replicas = [Process(*flags, "--instance", name) for name in ("a", "b")]
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.end, signal.SIGTERM)
        for replica in replicas:
            await replica.ready()
        (leader,) = [replica for replica in replicas if leads(replica)]
        (standby,) = [replica for replica in replicas if replica is not leader]
        await account(api, "before")
        await leader.end(number)
        wanted = ["before", *(f"during-{turn}" for turn in range(20))]
        for name in wanted[1:]:
            await account(api, name)
        await eventually(lambda: leads(standby), within=15.0, what="the standby leads")

        async def complete() -> bool:
            return await accounts(logs) == wanted

        await eventually(complete, within=15.0, what="each account is there once, in order")


async def test_two_clusters_feed_one_log_and_one_that_goes_is_no_matter_of_the_other(
    nats: tuple[NatsServer, JetStreamLogs], tmp_path: Path
) -> None:
    """The same names in both; each cluster has a lease and a chain of its own."""
    server, logs = nats
    async with AsyncExitStack() as stack:
        clusters: dict[str, tuple[ApiServer, Process]] = {}
        for name in ("east", "west"):
            api = await served(stack, tmp_path / name)
            flags = ("--nats-url", server.url, "--kubeconfig", str(tmp_path / name), "--instance", f"{name}-1")
            process = Process(*flags, cluster=name)
            await process.start()
            stack.push_async_callback(process.end, signal.SIGTERM)
            clusters[name] = api, process
        for name, (api, process) in clusters.items():
            await process.ready()
            assert leads(process)
            await account(api, "same")
            await account(api, f"only-{name}")

        async def told() -> bool:
            return await accounts(logs, "west") == ["same", "only-west"]

        await eventually(told, within=15.0, what="the second cluster is in the log")
        await clusters["west"][1].end(signal.SIGKILL)
        await account(clusters["east"][0], "later")

        async def complete() -> bool:
            return await accounts(logs, "east") == ["same", "only-east", "later"] and await told()

        await eventually(complete, within=15.0, what="the first goes on, and the second's part stays")
