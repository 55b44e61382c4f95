"""The client of the API server, against a server that answers with a test's bytes (faults 5, 13, 14)."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.list_decode import read_line
from services.ingestor.kubernetes.client import KubernetesSource
from services.ingestor.kubernetes.object_source import KindAbsentError, SourceError
from shared.errors import BadInputError
from tests.scripted_api import Api, body, chunks, serving, write_kubeconfig

POD = WatchedKind("Pod", "", "pods", "v1")
SPLIT = WatchedKind("TrafficSplit", "split.smi-spec.io", "trafficsplits")


@pytest.fixture
async def api() -> AsyncGenerator[Api]:
    async with serving() as made:
        yield made


@pytest.fixture
async def source(api: Api, tmp_path: Path) -> AsyncGenerator[KubernetesSource]:
    made = await KubernetesSource.connect(write_kubeconfig(tmp_path / "kubeconfig", api.url, token="first"))
    yield made
    await made.close()


async def lines(source: KubernetesSource, kind: WatchedKind = POD) -> list[bytes]:
    async with source.watch(kind, "7") as watch:
        return [line async for line in watch]


async def test_a_list_asks_for_pages_and_hands_on_the_token(api: Api, source: KubernetesSource) -> None:
    api.says("/api/v1/pods", body({"items": []}))
    await source.page(POD, "")
    await source.page(POD, "next")
    assert [query for _, query, _ in api.requests] == ["limit=500", "limit=500&continue=next"]
    assert api.requests[0][2].lower() == "bearer first"


async def test_lines_of_megabytes_cut_inside_a_character_come_whole(api: Api, source: KubernetesSource) -> None:
    label = "ü" * 1_300_000
    line = json.dumps(
        {"type": "ADDED", "object": {"metadata": {"name": "a", "labels": {"x": label}}}}, ensure_ascii=False
    ).encode()
    cuts = [0, 1000, 1001, 1_000_000, 1_000_001, len(line)]
    pieces = [line[start:end] for start, end in itertools.pairwise(cuts)]
    api.says("/api/v1/pods", chunks(*pieces, b'\n{"type":"BOOK', b'MARK"}\n\n{"type":"X"}\n{"cut off'))
    got = await lines(source)
    assert got == [line, b'{"type":"BOOKMARK"}', b'{"type":"X"}']
    assert len(line) > 2 * 1024 * 1024
    assert read_line("Pod", got[0], api_version="v1")


async def test_an_expired_token_is_read_again_and_the_request_repeated(
    api: Api, source: KubernetesSource, tmp_path: Path
) -> None:
    api.says("/api/v1/pods", body({"code": 401}, 401), body({"items": []}))
    write_kubeconfig(tmp_path / "kubeconfig", api.url, token="second")
    await source.page(POD, "")
    assert [token.lower() for *_, token in api.requests] == ["bearer first", "bearer second"]


async def test_a_token_that_stays_bad_is_a_failure_not_a_loop(api: Api, source: KubernetesSource) -> None:
    api.says("/api/v1/pods", body({"code": 401}, 401))
    with pytest.raises(SourceError) as caught:
        await source.page(POD, "")
    assert caught.value.failure.status == 401
    assert len(api.requests) == 2


async def test_retry_after_is_taken_from_the_header_or_the_status(api: Api, source: KubernetesSource) -> None:
    api.says(
        "/api/v1/pods",
        body({}, 429, **{"Retry-After": "17"}),
        body({"details": {"retryAfterSeconds": 3}}, 429),
        body("nonsense", 503),
    )
    waits: list[tuple[int, float]] = []
    for _ in range(3):
        with pytest.raises(SourceError) as caught:
            await source.page(POD, "")
        waits.append((caught.value.failure.status, caught.value.failure.retry_after))
    assert waits == [(429, 17.0), (429, 3.0), (503, 0.0)]


async def test_what_a_refused_write_is_told_of_waiting_is_handed_on(api: Api, source: KubernetesSource) -> None:
    api.says(
        "/status",
        body({}, 429, **{"Retry-After": "17"}),
        body({"details": {"retryAfterSeconds": 3}}, 503),
        body({}, 500),
    )
    waits: list[float] = []
    for _ in range(3):
        with pytest.raises(SourceError) as caught:
            await source.send("PATCH", "/status", [], "application/json-patch+json")
        waits.append(caught.value.failure.retry_after)
    assert waits == [17.0, 3.0, 0.0]


async def test_writes_share_a_connection_though_their_answers_come_in_pieces(
    api: Api, source: KubernetesSource
) -> None:
    peers: set[object] = set()

    async def slowly(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return await chunks(b"{", b'"a":1', b"}")(request)

    api.says("/status", slowly)
    for _ in range(5):
        assert await source.send("PATCH", "/status", [], "application/json-patch+json") == 200
    assert len(peers) == 1


async def test_what_netrc_holds_for_the_servers_host_is_not_used(
    api: Api, source: KubernetesSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    api.says("/api/v1/pods", body({"items": []}))
    await source.page(POD, "")
    assert api.requests[0][2].lower() == "bearer first"


@pytest.mark.parametrize("direct", [False, True], ids=["by the proxy", "NO_PROXY names the host"])
async def test_the_environments_proxy_is_used(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, direct: bool
) -> None:
    host = "127.0.0.1" if direct else "cluster.invalid"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1" if direct else api.url)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    api.says("/api/v1/pods", body({"items": []}))
    url = api.url if direct else f"http://{host}:7"
    source = await KubernetesSource.connect(write_kubeconfig(tmp_path / "kubeconfig", url, token="first"))
    try:
        await source.page(POD, "")
    finally:
        await source.close()
    assert [path for path, *_ in api.requests] == ["/api/v1/pods"]


async def test_the_version_that_the_server_prefers_is_read_and_one_that_serves_the_kind(
    api: Api, source: KubernetesSource
) -> None:
    versions = [{"version": f"v1alpha{number}"} for number in (1, 2, 4)]
    api.says("/apis/split.smi-spec.io", body({"versions": versions, "preferredVersion": {"version": "v1alpha4"}}))
    api.says("/apis/split.smi-spec.io/v1alpha4", body({"resources": [{"name": "others"}]}))
    api.says("/apis/split.smi-spec.io/v1alpha1", body({"resources": [{"name": "trafficsplits"}]}))
    api.says("/apis/split.smi-spec.io/v1alpha1/trafficsplits", body({"items": []}))
    assert (await source.page(SPLIT, "")).api_version == "split.smi-spec.io/v1alpha1"


async def test_a_missing_crd_is_absence_and_a_failing_discovery_is_not(api: Api, source: KubernetesSource) -> None:
    with pytest.raises(KindAbsentError):
        await source.page(SPLIT, "")
    api.says("/apis/split.smi-spec.io", body({}, 503))
    with pytest.raises(SourceError):
        await source.page(SPLIT, "")
    api.says("/apis/split.smi-spec.io", chunks(b"not json"))
    with pytest.raises(SourceError):
        await source.page(SPLIT, "")


async def test_a_connection_cut_in_a_line_is_a_failure(api: Api, source: KubernetesSource) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"BOOKMARK"}\n{"half')
        assert request.transport is not None
        request.transport.abort()
        return response

    api.says("/api/v1/pods", cut)
    got: list[bytes] = []

    async def read() -> None:
        async with source.watch(POD, "7") as watch:
            async for line in watch:
                got.append(line)  # noqa: PERF401 (what came before the error counts)

    with pytest.raises(SourceError):
        await read()
    assert got == [b'{"type":"BOOKMARK"}']


async def test_a_server_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    source = await KubernetesSource.connect(write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9", token="t"))
    with pytest.raises(SourceError):
        await source.page(POD, "")
    with pytest.raises(SourceError):
        await source.issuer()
    await source.close()


async def test_no_cluster_at_all_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="give --kubeconfig FILE"):
        await KubernetesSource.connect("")
    broken = tmp_path / "broken"
    for text in ("{]", "[]", "7", "clusters: 7", ""):
        broken.write_text(text)
        with pytest.raises(BadInputError):
            await KubernetesSource.connect(str(broken))
    with pytest.raises(BadInputError):
        await KubernetesSource.connect(str(tmp_path / "missing"))


async def test_a_watch_ends_soon_after_the_server_hears_nothing_any_more_and_the_next_one_works(tmp_path: Path) -> None:
    """The host is gone without a word, or packets to it are: silence is no sign of it, the kernel's questions are."""
    command = [sys.executable, "-m", "tests.integration.ingestor.unheard", str(tmp_path / "kubeconfig")]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(said)
    assert found["ended"].startswith("connection (")
    assert found["again"] == '{"type":"BOOKMARK"}'
