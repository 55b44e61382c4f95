"""The CA: certificates per second and core, through the log at 100 a second, and for 10,000 workloads at once.

The CA is a process of its own on a real nats-server (`sync_interval: always`), keys in a file, without the Kubernetes
API. Requests are made beforehand (keys, CSRs, sealed tokens), so that what is measured is the CA: its CPU time and peak
memory are read from /proc. "At once" is 10,000 requests in the queue before the CA starts to answer.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.table import Result, Row
from shared.eventlog.protocol import Draft, EventLog
from shared.identity.spiffe import SpiffeId
from shared.identity.token_sealing import seal_token
from shared.records.certificate_records import SigningRequest, TrustBundle, decode_answer, decode_bundle, encode
from shared.records.subjects import Streams
from shared.service.interpreter import module
from shared.streams.jetstream import JetStreamLogs
from shared.streams.specs import StreamSettings
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.unit.identity.cluster import Cluster, write

WORKLOADS = int(os.environ.get("WORKLOADS", "10000"))
RATE = 100
RATE_SECONDS = 10
AT_ONCE = 250
"""Requests that are put into the queue together."""
STREAMS = Streams()
REQUESTER = "bench"


class Ca:
    """A CA process."""

    def __init__(self, server: NatsServer, directory: Path) -> None:
        flags = ["--nats-url", server.url, "--no-kubernetes", "--key-store", "file", "--http-port", str(free_port())]
        flags += ["--key-file", str(directory / "keys" / "ca.json"), "--instance", "ca-1", "--log-level", "info"]
        with (directory / "ca.log").open("ab") as log:
            self.process = subprocess.Popen(module("services.ca", *flags), stdout=log, stderr=log)

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, name: str) -> float:
        """A line of its /proc status, MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name)) / 1024

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


def run() -> Result:
    """Measure on an idle machine."""
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as scratch:
        directory = Path(scratch)
        server = NatsServer(directory)
        server.start()
        try:
            rows = asyncio.run(_measure(server, directory))
        finally:
            server.stop()
    return Result(name="ca", command="make bench-ca", rows=rows)


async def _measure(server: NatsServer, directory: Path) -> list[Row]:
    cluster = Cluster()
    logs = JetStreamLogs.connect(server.access, STREAMS, StreamSettings())
    await logs.ensure()
    csrs, certs = await logs.open(STREAMS.csrs), await logs.open(STREAMS.certs)
    pods = [f"pod-{index}" for index in range(WORKLOADS + RATE * RATE_SECONDS)]
    await _write_cluster(await logs.open(STREAMS.events), cluster, pods)
    ca = Ca(server, directory)
    try:
        bundle = await _bundle(certs)
        requests = _requests(cluster, bundle, pods)
        latencies = await _paced(csrs, certs, requests[: RATE * RATE_SECONDS])
        before = ca.memory("VmRSS")
        ca.stop()
        waiting = requests[RATE * RATE_SECONDS :]
        for start in range(0, len(waiting), AT_ONCE):
            await asyncio.gather(*(_send(csrs, request) for request in waiting[start : start + AT_ONCE]))
        ca = Ca(server, directory)
        began = time.monotonic()
        seconds, per_core = await _all_at_once(ca, certs, began)
        peak = ca.memory("VmHWM")
    finally:
        ca.stop()
        await logs.close()
    ordered = sorted(latencies)
    return [
        Row("certificates per CPU second, the CA's whole process", round(per_core), "/s", ">= 1,000"),
        Row(f"{RATE}/s, request to certificate through the log, p50", _ms(ordered[len(ordered) // 2]), "ms"),
        Row(f"{RATE}/s, p99", _ms(ordered[len(ordered) * 99 // 100]), "ms"),
        Row(f"{WORKLOADS} workloads at once: until all have certificates", round(seconds, 1), "s"),
        Row(f"{WORKLOADS} workloads at once: the CA's peak memory", round(peak), "MB"),
        Row("the CA's memory before", round(before), "MB"),
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


async def _write_cluster(events: EventLog, cluster: Cluster, pods: list[str]) -> None:
    """Write the events of the cluster, as an ingestor would."""
    await write(events, [*cluster.bookstore()])
    told = [cluster.pod_event("bookstore", pod, "bookbuyer") for pod in pods]
    for start in range(0, len(told), 500):
        await write(events, told[start : start + 500])


async def _bundle(certs: EventLog) -> TrustBundle:
    async for record in certs.follow(subjects=STREAMS.bundle_subject("cluster.local")):
        return decode_bundle(record.payload)
    raise RuntimeError("the log ended")


def _requests(cluster: Cluster, bundle: TrustBundle, pods: list[str]) -> list[SigningRequest]:
    made: list[SigningRequest] = []
    for index, pod in enumerate(pods):
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        der = csr.public_bytes(Encoding.DER)
        sealing_key, sealed = seal_token(bundle, cluster.token(pod=pod), der)
        identity = SpiffeId("cluster.local", "bookstore", "bookbuyer")
        made.append(SigningRequest(f"{index:032x}", REQUESTER, der, sealing_key, sealed, cluster.name, str(identity)))
    return made


async def _send(csrs: EventLog, request: SigningRequest) -> None:
    await csrs.publish(Draft(STREAMS.csr_subject(REQUESTER), encode(request), message_id=request.id))


async def _paced(csrs: EventLog, certs: EventLog, requests: list[SigningRequest]) -> list[float]:
    """Latencies of requests that come at a steady rate."""
    sent: dict[str, float] = {}
    latencies: list[float] = []

    async def receive() -> None:
        async for record in certs.follow(subjects=STREAMS.issued_scope(REQUESTER)):
            answer = decode_answer(record.payload)
            assert not answer.refused, answer.refused
            latencies.append(time.monotonic() - sent[answer.id])
            if len(latencies) == len(requests):
                return

    receiving = asyncio.ensure_future(receive())
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for index, request in enumerate(requests):
            await asyncio.sleep(max(0.0, began + index / RATE - time.monotonic()))
            sent[request.id] = time.monotonic()
            group.create_task(_send(csrs, request))
    await asyncio.wait_for(receiving, 30)
    return latencies


async def _all_at_once(ca: Ca, certs: EventLog, began: float) -> tuple[float, float]:
    """Seconds until the last of all has its answer, and certificates per second of the CA's CPU while it answers."""
    wanted, first = WORKLOADS, 0.0
    _, before = await certs.bounds()
    cpu, count = 0.0, 0
    async for record in certs.follow(start=before + 1, subjects=STREAMS.issued_scope(REQUESTER)):
        if not count:
            cpu, first = ca.cpu, time.monotonic()
        count += 1
        if record.pending == 0 and count >= wanted:
            break
    assert first
    return time.monotonic() - began, (count - 1) / max(0.01, ca.cpu - cpu)
