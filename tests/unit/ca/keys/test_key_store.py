"""The CA's keys are created once, by the first replica, and never readable by other users."""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import stat
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.ca.core.kube_api import KubeError
from services.ca.keys.authority import AuthorityError, StoredAuthority, encode_authority, generate_authority
from services.ca.keys.file_store import FileKeyStore
from services.ca.keys.key_store import KeyStore
from services.ca.keys.secret_store import SecretKeyStore
from tests.unit.ca.fake_kubernetes import FakeKubernetes

CREATE = partial(generate_authority, "cluster.local", clock=lambda: 1_700_000_000.0)


@pytest.fixture(params=["file", "secret"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> KeyStore:
    if request.param == "file":
        return FileKeyStore(tmp_path / "ca" / "authority.json")
    return SecretKeyStore(FakeKubernetes(), namespace="meshlog-system")


async def test_keys_are_created_once_and_read_back(store: KeyStore) -> None:
    created = await store.load_or_create("cluster.local", CREATE)
    again = await store.load_or_create("cluster.local", CREATE)
    assert created.certificate == again.certificate
    assert created.sealing_keys == again.sealing_keys


async def test_replicas_that_start_at_once_share_one_root(store: KeyStore) -> None:
    found = await asyncio.gather(*(store.load_or_create("cluster.local", CREATE) for _ in range(8)))
    assert len({authority.certificate_pem for authority in found}) == 1


async def test_keys_of_another_trust_domain_are_not_used(store: KeyStore) -> None:
    await store.load_or_create("cluster.local", CREATE)
    with pytest.raises(AuthorityError) as refused:
        await store.load_or_create("example.org", CREATE)
    assert refused.value.code == "ca/trust-domain"


def _race(path: Path, barrier: Any, found: Queue[str]) -> None:
    barrier.wait()
    found.put(asyncio.run(FileKeyStore(path).load_or_create("cluster.local", CREATE)).certificate_pem)


def test_processes_that_start_at_once_share_one_root(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path / "ca.json", barrier, found)) for _ in range(3)]
    for racer in racers:
        racer.start()
    roots = {found.get(timeout=30) for _ in racers}
    for racer in racers:
        racer.join(10)
    assert len(roots) == 1


async def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "ca" / "authority.json"
    await FileKeyStore(path).load_or_create("cluster.local", CREATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


async def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "authority.json"
    await FileKeyStore(path).load_or_create("cluster.local", CREATE)
    path.chmod(0o640)
    with pytest.raises(AuthorityError) as refused:
        await FileKeyStore(path).load_or_create("cluster.local", CREATE)
    assert refused.value.code == "ca/keys-mode"


def flipped(stored: StoredAuthority, field: str, at: int) -> bytes:
    """One bit of the DER in a field turned over: PEM still, but another key or another algorithm."""
    head, *lines, foot = getattr(stored, field).strip().split("\n")
    der = bytearray(base64.b64decode("".join(lines)))
    der[at] ^= 1
    text = "\n".join([head, base64.b64encode(bytes(der)).decode(), foot])
    return encode_authority(msgspec.structs.replace(stored, **{field: text}))


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{}", b"\xff", b"[" * 3000, b'{"trust_domain":"cluster.local"}'),
        # The algorithm of the key, the curve of the key, and a coordinate of the certificate's own.
        flipped(CREATE(), "key", 12),
        flipped(CREATE(), "key", 22),
        flipped(CREATE(), "certificate", -200),
    ],
)
async def test_a_damaged_file_is_neither_used_nor_replaced(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "authority.json"
    path.write_bytes(damage)
    path.chmod(0o600)
    with pytest.raises(AuthorityError) as refused:
        await FileKeyStore(path).load_or_create("cluster.local", CREATE)
    assert refused.value.code == "ca/keys"
    assert path.read_bytes() == damage


async def test_a_key_that_is_not_the_roots_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "authority.json"
    path.write_bytes(encode_authority(msgspec.structs.replace(CREATE(), key=CREATE().key)))
    path.chmod(0o600)
    with pytest.raises(AuthorityError) as refused:
        await FileKeyStore(path).load_or_create("cluster.local", CREATE)
    assert refused.value.code == "ca/keys"
    assert "PRIVATE" not in str(refused.value)


async def test_a_directory_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuthorityError) as refused:
        await FileKeyStore(tmp_path / "file" / "authority.json").load_or_create("cluster.local", CREATE)
    assert refused.value.code == "ca/keys-file"


async def test_an_api_that_refuses_creates_no_second_root() -> None:
    kube = FakeKubernetes()
    kube.refusing.add("/api/v1/namespaces/meshlog-system/secrets/meshlog-ca")
    with pytest.raises(KubeError):
        await SecretKeyStore(kube, namespace="meshlog-system").load_or_create("cluster.local", CREATE)
    assert not kube.objects


def test_the_keys_do_not_print_themselves() -> None:
    stored = CREATE()
    assert "PRIVATE" not in f"{stored!r} {stored}"
