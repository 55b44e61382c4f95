"""An export whose digests are right and whose records are not: no verb that reads it ends in a traceback.

Records are damaged one by one: bytes flipped, cut and doubled, other types in JSON, headers and subjects that no
writer makes. `SEEDS=0:2000 pytest -m long tests/property/history/test_hostile_files.py` tries more.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.__main__ import main
from cli.history.archive import NOUNS, About, ArchiveWriter, record_of
from shared.eventlog.protocol import Draft, Record
from shared.records.certificate_records import SigningAnswer, encode
from shared.records.proxy_status import ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import CDS
from tests.property.history.worlds import STREAMS, exported, recorded
from tests.unit.compiler import objects

Records = dict[str, list[Record]]

VERBS = (
    *(("status",), ("proxies",), ("rollout", "--last"), ("log",), ("show", "HEAD"), ("diff", "1", "HEAD")),
    ("show", "HEAD", "--proxy", "buy/buyer-0"),
    ("show", "HEAD", "--proxy", "buy/buyer-0", "listener/inbound"),
    ("show", "HEAD", "--object", "TrafficTarget/store/buyer-v1"),
    ("diff", "HEAD~3", "HEAD", "--proxy", "buy/buyer-0"),
    ("why", "buy/buyer-0", "listener/inbound"),
    ("why-not", "buy/buyer-0", "svc:store/store-v1", "--path", "/x"),
    ("plan", "--envoys", "0", "--delete", "TrafficTarget/store/buyer-v1"),
    ("replay", "$LOG", "--verify"),
    ("export", "$LOG.again"),
    ("bisect", "--good", "1", "--bad", "HEAD", "--", "true"),
)
NONSENSE: tuple[bytes, ...] = (b"", b"{}", b"null", b"[]", b"\x80", b"\xff" * 9, b"[" * 50_000, b"\x91" * 5_000)
VALUES: tuple[Any, ...] = (None, 1, -1, 2**62, "x", "", [], {}, [None], {"a": 1}, True, 1.5)
HEADERS = ("", "x", "-1", "9" * 30, "0", "1/0", "0/0", "a:b:c")
SUBJECTS = (
    *("x", "mesh", "mesh.events", "mesh.events.cluster", "mesh.events.cluster.Pod.a", "mesh.events.cluster._.._"),
    *("mesh.certs.issued", "mesh.certs.issued.a.b", "mesh.status.a.b.c", "mesh.events.cluster.Pod.__.a"),
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[About, Records]:
    """The bookstore's log, as it was exported."""
    path = tmp_path_factory.mktemp("good") / "log"
    found: list[tuple[About, Records]] = []

    async def make() -> None:
        source = await recorded([[event] for event in objects.bookstore()], keyframe_every=5)
        status, certs = (source.status, source.certs)
        proxy = ProxyStatus("cluster", "buy", "buyer-0", "u", "a", "e", True, 0, types={CDS: TypeStatus(acked=9)})
        answer = SigningAnswer(id="1", chain=["x"], pod="buy/buyer-0", not_after=2**40)
        await status.publish(Draft(STREAMS.status_subject("cluster", "buy", "buyer-0"), encode_status(proxy)))  # type: ignore[attr-defined]
        await certs.publish(Draft(STREAMS.issued_subject("e", "1"), encode(answer)))  # type: ignore[attr-defined]
        archive = await exported(source, path, state_every=7)
        records = {
            noun: [record_of(item) for block in archive.contents.streams.get(noun, []) for item in archive.items(block)]
            for noun in NOUNS
        }
        found.append((archive.contents.about, records))
        archive.close()

    asyncio.run(make())
    return found[0]


def written(path: Path, about: About, records: Records) -> None:
    """The records as an export, with states as an export has them."""
    with path.open("wb") as file:
        writer = ArchiveWriter(file, about)
        for noun in NOUNS:
            for place, record in enumerate(records[noun]):
                writer.add(noun, record)
                if noun == "events" and place % 7 == 6:
                    newest = {one.subject: one for one in records[noun][: place + 1]}
                    writer.add_state(record.sequence, list(newest.values()))
        writer.finish()


def flipped(payload: bytes, chance: random.Random) -> bytes:
    changed = bytearray(payload)
    if changed:
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(payload: bytes, chance: random.Random) -> bytes:
    return payload[: chance.randrange(len(payload) + 1)]


def replaced(payload: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(payload) + 1)
    return payload[:at] + chance.randbytes(chance.randrange(8)) + payload[at + chance.randrange(8) :]


def mistyped(payload: bytes, chance: random.Random) -> bytes:
    """JSON in which one value is another."""
    try:
        whole: Any = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return payload
    place: Any = whole
    while isinstance(place, dict | list) and place:
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        below = place[key]
        if not isinstance(below, dict | list) or not below or chance.random() < 0.3:
            place[key] = chance.choice(VALUES)
            break
        place = below
    return msgspec.json.encode(whole)


PAYLOADS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(flipped, cut, replaced, mistyped, mistyped),
    lambda _, chance: chance.choice(NONSENSE),
    lambda payload, _: payload * 2,
)


def damaged(record: Record, chance: random.Random) -> Record:
    match chance.randrange(4):
        case 0:
            headers = dict(record.headers)
            if headers:
                name = chance.choice(list(headers))
                headers[name] = chance.choice((*HEADERS, headers[name] + "0"))
                if chance.random() < 0.3:
                    del headers[name]
            return msgspec.structs.replace(record, headers=headers)
        case 1:
            return msgspec.structs.replace(record, subject=chance.choice((*SUBJECTS, f"{record.subject}.x")))
        case _:
            return msgspec.structs.replace(record, payload=chance.choice(PAYLOADS)(record.payload, chance))


def survives(good: tuple[About, Records], path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb says what it can of a damaged file; what it raises is the test's failure."""
    about, records = good
    chance = random.Random(seed)  # noqa: S311 (repeatable)
    mine = {noun: list(held) for noun, held in records.items()}
    for _ in range(chance.choice((1, 1, 1, 3))):
        held = mine[chance.choice(NOUNS)]
        place = chance.randrange(len(held)) if held else 0
        held[place : place + 1] = [damaged(record, chance) for record in held[place : place + 1]]
    written(path, about, mine)
    for words in VERBS:
        code = main([word.replace("$LOG", str(path)) for word in words])
        assert code in {0, 1, 2, 124}, (seed, words)
        capsys.readouterr()


@pytest.mark.parametrize("seed", range(8))
def test_no_verb_breaks_on_a_damaged_record(
    good: tuple[About, Records],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    seed: int,
) -> None:
    monkeypatch.setenv("MESHLOG_LOG", str(tmp_path / "log"))
    survives(good, tmp_path / "log", seed, capsys)


@pytest.mark.long
def test_no_verb_breaks_on_hundreds_of_damaged_records(
    good: tuple[About, Records], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHLOG_LOG", str(tmp_path / "log"))
    first, _, last = os.environ.get("SEEDS", "0:300").partition(":")
    for seed in range(int(first), int(last)):
        survives(good, tmp_path / "log", seed, capsys)
