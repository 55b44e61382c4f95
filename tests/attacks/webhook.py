"""Floods of the injector's webhook by a pod without any rights: bounded in count and time.

    python -P -m tests.attacks.webhook KIND HOST:PORT [--connections 200] [--seconds 6] [--source 127.0.0.2]

Each kind is a function of a `Target` and a `Dose`, so that tests run them without a mesh.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import resource
import ssl
import time
from collections.abc import Awaitable, Callable

import msgspec

from tests.attacks.attack import Attack, Cost, told
from tests.attacks.scene import STRANGER, AttackScene

PODS = "/mutate-pod-creation"
POLICY = "/validate-policy"


class Target(msgspec.Struct, frozen=True):
    """Where the webhook is."""

    host: str
    port: int
    source: str = ""
    """Address to call from; empty: any."""


class Dose(msgspec.Struct, frozen=True):
    """How much of it."""

    connections: int = 200
    seconds: float = 6.0


class _Tally:
    """What an attack sent, and what came back."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.bytes = 0
        self.answers: dict[str, int] = {}

    def answered(self, raw: bytes) -> None:
        """Count an answer by its status."""
        word = raw[9:12].decode("latin-1") if raw.startswith(b"HTTP/1.1 ") else "cut off"
        self.answers[word] = self.answers.get(word, 0) + 1

    def cost(self, began: float) -> Cost:
        """The whole of it."""
        said = ", ".join(f"{count} times {word}" for word, count in sorted(self.answers.items())) or "no answer"
        return Cost(
            connections=self.connections,
            requests=self.requests,
            bytes=self.bytes,
            seconds=round(time.monotonic() - began, 1),
            said=said,
        )


class _Link:
    """One TLS connection of the attacker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tally: _Tally) -> None:
        self.reader = reader
        self._writer = writer
        self._tally = tally

    async def send(self, data: bytes) -> None:
        """Send, as far as it is taken."""
        self._writer.write(data)
        self._tally.bytes += len(data)
        await self._writer.drain()

    async def answer(self) -> None:
        """Wait for an answer, and count it."""
        self._tally.answered(await self.reader.read(65536))

    def close(self) -> None:
        """Leave."""
        self._writer.transport.abort()


Link = Callable[[], Awaitable[_Link]]
Each = Callable[[Link, _Tally], Awaitable[None]]


def head(path: str, *lines: str) -> bytes:
    """The head of a review's request."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: meshlog", *lines, "", ""]).encode()


def posted(path: str, body: bytes, *lines: str) -> bytes:
    """A whole request."""
    return head(path, f"Content-Length: {len(body)}", *lines) + body


def review(kind: str, group: str, value: object, namespace: str = "bookbuyer") -> bytes:
    """An AdmissionReview."""
    request = {
        "uid": "u-1",
        "kind": {"group": group, "version": "v1alpha4" if group else "v1", "kind": kind},
        "namespace": namespace,
        "operation": "CREATE",
        "object": value,
    }
    made = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(made, separators=(",", ":")).encode()


def many_matches(count: int = 60_000) -> bytes:
    """A review of an HTTPRouteGroup whose expressions take long to compile, about 3 MB."""
    matches = [{"name": f"m{n}", "pathRegex": f"/{n}(?:a{{960}}|b{{960}})"} for n in range(count)]
    return review("HTTPRouteGroup", "specs.smi-spec.io", {"metadata": {"name": "m"}, "spec": {"matches": matches}})


def large_pod(containers: int = 3000) -> bytes:
    """A review of a pod that is large and has many probes, about 1 MB."""
    probe = {"httpGet": {"path": "/" + "a" * 200, "port": 80}}
    made = [{"name": f"c{n}", "image": "a", "livenessProbe": probe} for n in range(containers)]
    annotations = {"openservicemesh.io/sidecar-injection": "enabled"}
    return review("Pod", "", {"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": made}})


async def _all(target: Target, dose: Dose, each: Each) -> Cost:
    """Do `each` on so many connections at once, again and again until the time is over."""
    began, tally = time.monotonic(), _Tally()
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    local = (target.source, 0) if target.source else None

    async def once() -> None:
        links: list[_Link] = []

        async def link() -> _Link:
            reader, writer = await asyncio.open_connection(target.host, target.port, ssl=trust, local_addr=local)
            tally.connections += 1
            links.append(_Link(reader, writer, tally))
            return links[-1]

        try:
            await each(link, tally)
        except (OSError, asyncio.IncompleteReadError):
            tally.answered(b"")
            # A moment, so that a refusal at once is no loop without end.
            await asyncio.sleep(0.05)
        finally:
            for one in links:
                one.close()

    async def over_and_over() -> None:
        while True:
            await once()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(dose.seconds):
            await asyncio.gather(*(over_and_over() for _ in range(dose.connections)))
    return tally.cost(began)


def _posting(request: bytes) -> Each:
    async def each(link: Link, tally: _Tally) -> None:
        one = await link()
        for _ in range(1000):
            tally.requests += 1
            await one.send(request)
            await one.answer()
            if one.reader.at_eof():
                return

    return each


def _holding(begin: bytes, more: bytes = b"", pause: float = 0.5) -> Each:
    """Begin something and never end it; `more` is sent after each pause, as long as it is taken."""

    async def each(link: Link, tally: _Tally) -> None:
        one = await link()
        tally.requests += 1
        if begin:
            await one.send(begin)
        waiting = asyncio.ensure_future(one.answer())
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=pause)
                if more and not waiting.done():
                    await one.send(more)
        finally:
            waiting.cancel()

    return each


async def _unread(link: Link, tally: _Tally) -> None:
    one = await link()
    body = large_pod(40)
    for _ in range(200):
        tally.requests += 1
        await one.send(posted(PODS, body))


async def _handshakes(link: Link, tally: _Tally) -> None:
    tally.requests += 1
    (await link()).close()


def _zipped() -> bytes:
    body = gzip.compress(b"[" * (256 << 20), compresslevel=9)
    return posted(PODS, body, "Content-Encoding: gzip")


def kinds() -> dict[str, tuple[str, Callable[[], Each]]]:
    """Name → what it does, and how."""
    small = review("Pod", "", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}})
    return {
        "matches": ("reviews of 60,000 expressions, 3 MB each", lambda: _posting(posted(POLICY, many_matches()))),
        "pods": ("reviews of pods with 3,000 probes, 1 MB each", lambda: _posting(posted(PODS, large_pod()))),
        "reviews": ("small reviews without a pause", lambda: _posting(posted(PODS, small))),
        "deep": ("nesting of a million levels", lambda: _posting(posted(PODS, b"[" * 1_000_000))),
        "bodies": ("bodies of 100 MB", lambda: _posting(head(PODS, "Content-Length: 100000000") + b"a" * 1_000_000)),
        "zipped": ("256 MB packed into 250 kB", lambda: _posting(_zipped())),
        "chunked": (
            "bodies in chunks without an end",
            lambda: _holding(head(PODS, "Transfer-Encoding: chunked"), b"8000\r\n" + b"a" * 0x8000 + b"\r\n", 0.01),
        ),
        "heads": ("heads of a megabyte", lambda: _posting(head(PODS, f"X-A: {'a' * 1_000_000}"))),
        "idle": ("connections that complete TLS and stay silent", lambda: _holding(b"")),
        "slow-heads": ("a byte of a head every half second", lambda: _holding(b"POST", b"a")),
        "slow-bodies": (
            "a byte of a body of 5 MB every half second",
            lambda: _holding(head(PODS, "Content-Length: 5000000"), b"a"),
        ),
        "unread": ("answers that are not read", lambda: _unread),
        "handshakes": ("handshakes without a pause", lambda: _handshakes),
    }


async def flood(kind: str, target: Target, dose: Dose) -> Cost:
    """Do one of them."""
    return await _all(target, dose, kinds()[kind][1]())


def _row(kind: str, what: str) -> Attack:
    async def run(scene: AttackScene) -> Cost:
        return await scene.program(STRANGER, "tests.attacks.webhook", kind, scene.injector, "--connections", "200")

    return Attack(name=f"injector-{kind}", what=f"webhook: {what}", run=run, short=kind == "matches")


ATTACKS = tuple(_row(kind, what) for kind, (what, _) in kinds().items())


def main() -> None:
    """Do one of them and say what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(kinds()))
    parser.add_argument("target")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--source", default="")
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    target = Target(host, int(port), options.source)
    told(asyncio.run(flood(options.kind, target, Dose(options.connections, options.seconds))))


if __name__ == "__main__":
    main()
