"""Logs are kept, bounded, and readable after their pod."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deploy.devcluster.cluster import Obj
from deploy.devcluster.kubelet.logs import PodLogs, read


def named(name: str, uid: str = "u1") -> Obj:
    return {"metadata": {"name": name, "namespace": "default", "uid": uid}}


async def whole(path: Path, *, tail: int | None = None, limit: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in read(path, tail=tail, limit=limit)])


async def test_the_last_lines_can_be_asked_for(tmp_path: Path) -> None:
    path = PodLogs(tmp_path).path(named("web"), "main")
    path.write_bytes(b"one\ntwo\nthree")
    assert await whole(path) == b"one\ntwo\nthree"
    assert await whole(path, tail=2) == b"two\nthree"
    assert await whole(path, tail=0) == b""
    assert await whole(path, limit=4) == b"one\n"


async def test_a_long_log_is_truncated_while_its_writer_goes_on(tmp_path: Path) -> None:
    logs = PodLogs(tmp_path, limit=10)
    path = logs.path(named("web"), "main")
    with path.open("ab", buffering=0) as writer:
        writer.write(b"a long line\n")
        logs.bound()
        writer.write(b"next\n")
    assert path.read_bytes() == b"next\n"
    assert await whole(path) == b"a long line\nnext\n"


async def test_following_ends_when_the_container_has_and_everything_is_read(tmp_path: Path) -> None:
    path = PodLogs(tmp_path).path(named("web"), "main")
    path.write_bytes(b"one\n")
    going, heard = True, list[bytes]()

    async def follow() -> None:
        heard.extend([chunk async for chunk in read(path, follow=lambda: going)])

    task = asyncio.create_task(follow())
    with path.open("ab") as writer:
        writer.write(b"two\n")
    going = False
    async with asyncio.timeout(5):
        await task
    assert b"".join(heard) == b"one\ntwo\n"


def test_the_newest_log_of_a_name_is_found_and_the_oldest_pods_are_forgotten(tmp_path: Path) -> None:
    logs = PodLogs(tmp_path, kept_pods=2)
    for uid in ("u1", "u2", "u3"):
        logs.path(named("web", uid), "main").write_text(uid)
    logs.forget()
    assert len(list(tmp_path.iterdir())) == 2
    found = logs.find("default", "web", "main")
    assert found is not None
    assert logs.find("default", "other", "main") is None
