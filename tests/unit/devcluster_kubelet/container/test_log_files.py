"""Logs are kept, bounded, and readable after their pod."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container.log_files import LogRange, PodLogs
from deploy.devcluster.kubelet.container.log_times import LineTimes


def named(name: str, uid: str = "u1") -> Obj:
    return {"metadata": {"name": name, "namespace": "default", "uid": uid}}


class Clock:
    """Seconds since 1970, set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def whole(logs: PodLogs, path: Path, **wanted: Any) -> bytes:
    return b"".join([chunk async for chunk in logs.read(path, LogRange(**wanted))])


@pytest.mark.parametrize("content", [b"one\ntwo\nthree", b"one\ntwo\nthree\n", b"\n\n", b"a\rb\x0cc\nd", b""])
async def test_the_last_lines_can_be_asked_for(tmp_path: Path, content: bytes) -> None:
    """Lines end with a line feed and with nothing else."""
    logs = PodLogs(tmp_path)
    path = logs.path(named("web"), "main")
    path.write_bytes(content)
    lines = [each + b"\n" for each in content.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    lines = [each for each in lines if each]
    for tail in range(5):
        assert await whole(logs, path, tail=tail) == b"".join(lines[-tail:] if tail else [])
    assert await whole(logs, path) == content
    assert await whole(logs, path, limit=4) == content[:4]
    assert await whole(logs, path, tail=1, limit=1) == b"".join(lines[-1:])[:1]


async def test_lines_have_the_time_at_which_they_were_first_seen(tmp_path: Path) -> None:
    clock = Clock()
    logs = PodLogs(tmp_path, limit=20, now=clock)
    path = logs.path(named("web"), "main")
    with path.open("ab", buffering=0) as writer:
        for line in (b"one\n", b"two\nthr", b"ee\n"):
            clock.now += 10
            writer.write(line)
            logs.note()
        clock.now += 10
        stamped = b"1970-01-01T00:16:50.000000Z one\n1970-01-01T00:17:00.000000Z two\n"
        stamped += b"1970-01-01T00:17:00.000000Z three\n"
        assert await whole(logs, path, timestamps=True) == stamped
        assert await whole(logs, path, timestamps=True, tail=1, limit=12) == b"1970-01-01T0"
        for since, lines in ((1010, b"one\ntwo\nthree\n"), (1010.1, b"two\nthree\n"), (1021, b""), (9e9, b"")):
            assert await whole(logs, path, since=since) == lines
        assert await whole(logs, path, since=1015, tail=3) == b"two\nthree\n", "the tail first, as in Kubernetes"
        writer.write(b"a line that is too long\n")
        logs.bound()
        clock.now += 10
        writer.write(b"last\n")
        assert (await whole(logs, path, timestamps=True)).endswith(
            b"1970-01-01T00:17:20.000000Z a line that is too long\n1970-01-01T00:17:30.000000Z last\n"
        )
        assert await whole(logs, path, since=1045) == b"last\n"
    assert logs.read_part(path, 0, 4, LogRange(timestamps=True)) == b"1970-01-01T00:17:30.000000Z last"


async def test_what_is_followed_is_stamped_filtered_and_limited_too(tmp_path: Path) -> None:
    clock = Clock()
    logs = PodLogs(tmp_path, now=clock)
    path = logs.path(named("web"), "main")
    path.write_bytes(b"old\nbe")
    logs.note()
    heard: list[bytes] = []
    wanted = LogRange(since=1005, timestamps=True, limit=40)
    clock.now = 1010.0
    pieces = aiter(logs.read(path, wanted, follow=lambda: True))
    with path.open("ab", buffering=0) as writer:
        writer.write(b"gun before\nnew line\nand more\n")
        async with asyncio.timeout(5):
            heard.extend([piece async for piece in pieces])
    assert b"".join(heard) == b"1970-01-01T00:16:50.000000Z new line\n197"


def test_the_moments_of_a_log_that_always_grows_are_bounded() -> None:
    moments = LineTimes()
    for number in range(1, 50_001):
        moments.note(number, float(number))
    assert len(moments._times) <= 8192  # pyright: ignore[reportPrivateUsage]
    assert moments.of(49_998) == 49_999.0
    places = [moments.of(place) for place in range(0, 49_999, 7)]
    assert places == sorted(places)
    assert all(place < when for place, when in zip(range(0, 49_999, 7), places, strict=True)), "never too early"


async def test_a_long_log_is_truncated_while_its_writer_goes_on(tmp_path: Path) -> None:
    logs = PodLogs(tmp_path, limit=10)
    path = logs.path(named("web"), "main")
    with path.open("ab", buffering=0) as writer:
        writer.write(b"a long line\n")
        logs.bound()
        writer.write(b"next\n")
    assert path.read_bytes() == b"next\n"
    assert await whole(logs, path) == b"a long line\nnext\n"


async def test_following_ends_when_the_container_has_and_everything_is_read(tmp_path: Path) -> None:
    logs = PodLogs(tmp_path)
    path = logs.path(named("web"), "main")
    path.write_bytes(b"one\n")
    going, heard = True, list[bytes]()

    async def follow() -> None:
        heard.extend([chunk async for chunk in logs.read(path, follow=lambda: going)])

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
