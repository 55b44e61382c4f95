"""The client that the CA and the ingestor share, against a server with scripted answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.ca.core.kube_api import KubeError
from services.ca.kubernetes.client import KubeClient
from shared.errors import BadInputError
from shared.kubernetes import client as shared_client
from shared.kubernetes.answers import RequestError, WatchRefusedError
from shared.kubernetes.client import KubernetesClient
from tests.scripted_api import Api, body, chunks, serving, write_kubeconfig

MAPS = "/api/v1/namespaces/shop/configmaps/roots"


@pytest.fixture
async def api() -> AsyncGenerator[Api]:
    async with serving() as made:
        yield made


@pytest.fixture
async def kube(api: Api, tmp_path: Path) -> AsyncGenerator[KubeClient]:
    write_kubeconfig(tmp_path / "kubeconfig", api.url, token="first")
    made = await KubeClient.connect(tmp_path / "kubeconfig")
    yield made
    await made.close()


async def test_an_expired_token_is_read_again_for_the_ca_too(api: Api, kube: KubeClient, tmp_path: Path) -> None:
    """Its own token is rotated by the kubelet every hour."""
    api.says(MAPS, body({"code": 401}, 401), body({}), body({"code": 401}, 401), body({}))
    write_kubeconfig(tmp_path / "kubeconfig", api.url, token="second")
    assert (await kube.request("PATCH", MAPS, body={}, content_type="application/apply-patch+yaml")).status == 200
    write_kubeconfig(tmp_path / "kubeconfig", api.url, token="third")
    assert [chunk async for chunk in kube.watch(MAPS, query={"watch": "true"})] == [b"{}"]
    assert [token.lower() for *_, token in api.requests] == [
        f"bearer {n}" for n in ("first", "second", "second", "third")
    ]


async def test_a_token_that_stays_bad_is_an_answer_not_a_loop(api: Api, kube: KubeClient) -> None:
    api.says(MAPS, body({"code": 401}, 401))
    assert (await kube.request("GET", MAPS)).status == 401
    assert len(api.requests) == 2
    with pytest.raises(KubeError, match="answered 401"):
        [chunk async for chunk in kube.watch(MAPS, query={})]


async def test_a_server_that_is_too_busy_is_asked_again_when_it_says(api: Api, kube: KubeClient) -> None:
    api.says(MAPS, body({}, 429, **{"Retry-After": "1"}), body({"kind": "ConfigMap"}))
    answer = await kube.request("GET", MAPS)
    assert (answer.status, len(api.requests)) == (200, 2)


async def test_one_that_says_later_than_the_request_may_take_or_nothing_is_not_waited_for(
    api: Api, kube: KubeClient
) -> None:
    for first in (body({}, 429, **{"Retry-After": "600"}), body({}, 503), body({}, 503, **{"Retry-After": "soon"})):
        api.says(MAPS, first, body({}))
        before = len(api.requests)
        assert (await kube.request("GET", MAPS)).status in (429, 503)
        assert len(api.requests) == before + 1


async def test_an_answer_without_end_is_not_read_to_its_end(
    api: Api, kube: KubeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    api.says(MAPS, chunks(b"x" * 1000, b"x" * 1000))
    client = await KubernetesClient.connect(str(tmp_path / "kubeconfig"), agent="test")
    assert len((await client.request("GET", MAPS, most=2000)).body) == 2000
    with pytest.raises(RequestError, match="more than 1999 bytes"):
        await client.request("GET", MAPS, most=1999)
    assert (await client.request("GET", MAPS, most=1999, cut=True)).body == b"x" * 1999
    monkeypatch.setattr(shared_client, "MOST_REFUSAL", 10)
    api.says(MAPS, body({"message": "x" * 1000}, 403))
    with pytest.raises(WatchRefusedError) as caught:
        async with client.watch(MAPS, query={}):
            pass
    assert caught.value.answer.status == 403
    assert len(caught.value.answer.body) <= 10
    await client.close()


async def test_a_server_that_is_silent_or_gone_is_no_answer(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9", token="t")
    made = await KubeClient.connect(Path(path))
    with pytest.raises(KubeError, match="no answer"):
        await made.request("GET", MAPS)
    with pytest.raises(KubeError, match="no answer"):
        [chunk async for chunk in made.watch(MAPS, query={})]
    await made.close()


async def test_no_cluster_at_all_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="give --kubeconfig FILE"):
        await KubeClient.connect(tmp_path / "missing")
